"""Checkpoints: reading them without running code, and the formats they were published in."""

from ..errors import CheckpointError
from . import schemes  # noqa: F401 - brings all of mmengine's checkpoint loading here
from .loading import load_from_local, load_url

__all__ = ['CheckpointError', 'load_from_local', 'load_url']
