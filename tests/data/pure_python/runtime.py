"""What the configs of this folder share: how they run, without a default scope."""

from mmengine.hooks import IterTimerHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

from mmvanilla.engine.hooks.atomic_checkpoint import AtomicCheckpointHook
from mmvanilla.engine.hooks.check_loss import CheckLossHook
from mmvanilla.engine.hooks.switch_to_deploy import SwitchToDeployHook
from mmvanilla.engine.loops import ResumableEpochLoop

default_scope = None
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=AtomicCheckpointHook, interval=1),
    deploy=dict(type=SwitchToDeployHook),
)
custom_hooks = [dict(type=CheckLossHook)]
train_cfg = dict(type=ResumableEpochLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
