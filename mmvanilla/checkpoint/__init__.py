"""Checkpoints: reading them without running code, and the formats they were published in."""

from ..errors import CheckpointError
from . import schemes  # noqa: F401 - brings all of mmengine's checkpoint loading here
from .latest import latest_checkpoint, naming_last_checkpoint
from .loading import load_from_local, load_url

__all__ = [
    'CheckpointError',
    'latest_checkpoint',
    'load_from_local',
    'load_url',
    'naming_last_checkpoint',
]
