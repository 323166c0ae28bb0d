"""Reading a checkpoint from a stranger: nothing in it is run."""

from ..errors import CheckpointError
from .loading import load_from_local
from .schemes import hand_over, safe_loading

__all__ = ['CheckpointError', 'hand_over', 'load_from_local', 'safe_loading']
