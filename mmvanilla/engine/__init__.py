"""What training needs besides the model: optimizer constructors and hooks."""

from .accelerate import AccelerateHook
from .deep_training import DeepTrainingHook
from .deploy import SwitchToDeployHook
from .labels import CheckLabelsHook
from .layer_decay import VanillaNetLayerDecayConstructor
from .randomness import ReseedHook, seed_worker
from .resume import CheckResumeHook
from .weights import CheckWeightsHook

__all__ = [
    'AccelerateHook',
    'CheckLabelsHook',
    'CheckResumeHook',
    'CheckWeightsHook',
    'DeepTrainingHook',
    'ReseedHook',
    'SwitchToDeployHook',
    'VanillaNetLayerDecayConstructor',
    'seed_worker',
]
