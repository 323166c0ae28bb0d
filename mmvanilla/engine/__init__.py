"""What training needs besides the model: hooks, optimizers, a loop, checks before it starts."""

from .distributed import init_processes
from .hooks.atomic_checkpoint import AtomicCheckpointHook
from .hooks.broadcast_buffers import BroadcastBuffersHook
from .hooks.check_labels import CheckLabelsHook
from .hooks.check_loss import CheckLossHook
from .hooks.check_resume import CheckResumeHook
from .hooks.check_weights import CheckWeightsHook
from .hooks.deep_training import DeepTrainingHook
from .hooks.log_pictures import LogPicturesHook
from .hooks.progress import progress_bar
from .hooks.reseed import ReseedHook, seed_worker
from .hooks.stop_on_signal import StopOnSignalHook
from .hooks.switch_to_deploy import SwitchToDeployHook
from .latest import latest_checkpoint, naming_last_checkpoint
from .loops import ResumableEpochLoop
from .model_checks import check_classes, check_model
from .optim.bfloat16 import BFloat16OptimWrapper
from .optim.layer_decay import VanillaNetLayerDecayConstructor
from .preflight import PreflightHook, check_loading, preflight
from .recipe_hooks import add_hooks

__all__ = [
    'AtomicCheckpointHook',
    'BFloat16OptimWrapper',
    'BroadcastBuffersHook',
    'CheckLabelsHook',
    'CheckLossHook',
    'CheckResumeHook',
    'CheckWeightsHook',
    'DeepTrainingHook',
    'LogPicturesHook',
    'PreflightHook',
    'ReseedHook',
    'ResumableEpochLoop',
    'StopOnSignalHook',
    'SwitchToDeployHook',
    'VanillaNetLayerDecayConstructor',
    'add_hooks',
    'check_classes',
    'check_loading',
    'check_model',
    'init_processes',
    'latest_checkpoint',
    'naming_last_checkpoint',
    'preflight',
    'progress_bar',
    'seed_worker',
]
