"""What training needs besides the model: optimizer constructors, hooks and a loop."""

from .hooks.atomic_checkpoint import AtomicCheckpointHook
from .hooks.broadcast_buffers import BroadcastBuffersHook
from .hooks.check_labels import CheckLabelsHook
from .hooks.check_loss import CheckLossHook
from .hooks.check_resume import CheckResumeHook
from .hooks.check_weights import CheckWeightsHook
from .hooks.deep_training import DeepTrainingHook
from .hooks.reseed import ReseedHook, seed_worker
from .hooks.stop_on_signal import StopOnSignalHook
from .hooks.switch_to_deploy import SwitchToDeployHook
from .loops import ResumableEpochLoop
from .optim.bfloat16 import BFloat16OptimWrapper
from .optim.layer_decay import VanillaNetLayerDecayConstructor

__all__ = [
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
