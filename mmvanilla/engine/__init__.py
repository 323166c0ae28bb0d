"""What training needs besides the model: optimizer constructors, hooks."""

from .deep_training import DeepTrainingHook
from .layer_decay import VanillaNetLayerDecayConstructor
from .randomness import ReseedHook, seed_worker

__all__ = ['DeepTrainingHook', 'ReseedHook', 'VanillaNetLayerDecayConstructor', 'seed_worker']
