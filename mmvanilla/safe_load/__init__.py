"""Read checkpoints of strangers without running anything from them."""

from ..errors import CheckpointError
from .loading import convert_with, load_from_local
from .schemes import safe_loading

__all__ = ['CheckpointError', 'convert_with', 'load_from_local', 'safe_loading']
