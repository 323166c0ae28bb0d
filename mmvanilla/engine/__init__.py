"""What training needs besides the model: optimizer constructors, hooks."""

from .layer_decay import VanillaNetLayerDecayConstructor
from .randomness import ReseedHook, seed_worker

__all__ = ['ReseedHook', 'VanillaNetLayerDecayConstructor', 'seed_worker']
