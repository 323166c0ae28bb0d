"""Reading a checkpoint from a stranger: nothing in it is run."""

from ..errors import CheckpointError
from .loading import load_from_local, load_url
from .schemes import safe_loading

__all__ = ['CheckpointError', 'load_from_local', 'load_url', 'safe_loading']
