"""Runs: from a config to a runner, loops, loaders, hooks and optimizers."""

from .distributed import init_processes
from .hooks.atomic_checkpoint import AtomicCheckpointHook
from .hooks.broadcast_buffers import BroadcastBuffersHook
from .hooks.check_labels import CheckLabelsHook
from .hooks.check_loss import CheckLossHook
from .hooks.check_weights import CheckWeightsHook
from .hooks.deep_training import DeepTrainingHook
from .hooks.distill import DistillHook
from .hooks.log_pictures import LogPicturesHook
from .hooks.progress import progress_bar
from .hooks.reseed import ReseedHook
from .hooks.resume import ResumeHook
from .hooks.stop_on_signal import StopOnSignalHook
from .hooks.switch_to_deploy import SwitchToDeployHook
from .latest import latest_checkpoint, naming_last_checkpoint
from .loaders import seed_worker
from .loops import ResumableEpochLoop, ResumableIterLoop
from .optim.bfloat16 import BFloat16OptimWrapper
from .optim.layer_decay import VanillaNetLayerDecayConstructor
from .preflight import PreflightHook, preflight
from .recipe_hooks import add_hooks
from .run import build_runner

__all__ = [
    'AtomicCheckpointHook',
    'BFloat16OptimWrapper',
    'BroadcastBuffersHook',
    'CheckLabelsHook',
    'CheckLossHook',
    'CheckWeightsHook',
    'DeepTrainingHook',
    'DistillHook',
    'LogPicturesHook',
    'PreflightHook',
    'ReseedHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'ResumeHook',
    'StopOnSignalHook',
    'SwitchToDeployHook',
    'VanillaNetLayerDecayConstructor',
    'add_hooks',
    'build_runner',
    'init_processes',
    'latest_checkpoint',
    'naming_last_checkpoint',
    'preflight',
    'progress_bar',
    'seed_worker',
]
