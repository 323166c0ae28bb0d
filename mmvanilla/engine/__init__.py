"""What training needs besides the model: optimizer constructors, hooks and a loop."""

from .accelerate import AccelerateHook
from .buffers import BroadcastBuffersHook
from .checkpoints import AtomicCheckpointHook
from .deep_training import DeepTrainingHook
from .deploy import SwitchToDeployHook
from .labels import CheckLabelsHook
from .layer_decay import VanillaNetLayerDecayConstructor
from .loops import ResumableEpochLoop
from .losses import CheckLossHook
from .precision import BFloat16OptimWrapper
from .randomness import ReseedHook, seed_worker
from .resume import CheckResumeHook
from .signals import StopOnSignalHook
from .weights import CheckWeightsHook

__all__ = [
    'AccelerateHook',
    'AtomicCheckpointHook',
    'BFloat16OptimWrapper',
    'BroadcastBuffersHook',
    'CheckLabelsHook',
    'CheckLossHook',
    'CheckResumeHook',
    'CheckWeightsHook',
    'DeepTrainingHook',
    'ReseedHook',
    'ResumableEpochLoop',
    'StopOnSignalHook',
    'SwitchToDeployHook',
    'VanillaNetLayerDecayConstructor',
    'seed_worker',
]
