"""The hooks and loops of this package's recipes, for configs that are built on others."""

from mmengine.config import Config
from mmengine.registry import HOOKS

from ..package_configs import MIM
from ..type_name import type_name

CHECKPOINT = 'AtomicCheckpointHook'
LOOPS = dict(EpochBasedTrainLoop='ResumableEpochLoop', IterBasedTrainLoop='ResumableIterLoop')


def add_hooks(cfg: Config) -> list[str]:
    """Add the missing hooks of ``configs/_base_/runtime.py`` to a config, in place.

    A config on mmdet's own base then saves at signals, resumes with the same losses and writes
    checkpoints that load without running code. mmengine's CheckpointHook and loops are replaced by
    ours with the same arguments. A hook set to None stays off.

    Args:
        cfg: The config of a training.

    Returns:
        The types of the added hooks and loop.
    """
    recipe = Config.fromfile(MIM / 'configs/_base_/runtime.py')
    hooks, custom = dict(cfg.get('default_hooks') or {}), list(cfg.get('custom_hooks') or [])
    present = {type_name(hook) for hook in [*hooks.values(), *custom]}
    added = []
    for name, hook in [*recipe.default_hooks.items(), *((None, h) for h in recipe.custom_hooks)]:
        of_ours = (HOOKS.get(hook.type) or object).__module__.startswith('mmvanilla.')
        if not of_ours or hook.type in present or (name in hooks and hooks[name] is None):
            continue
        if hook.type == CHECKPOINT:
            if type_name(hooks.get(name)) not in ('', 'CheckpointHook'):
                continue  # one of somebody else's
            hook = dict(hooks.get(name) or {}, type=CHECKPOINT)
        if name is None or (name in hooks and hook['type'] != CHECKPOINT):
            custom.append(hook)
        else:
            hooks[name] = hook
        added.append(hook['type'])
    cfg.default_hooks, cfg.custom_hooks = hooks, custom
    loop = cfg.get('train_cfg')
    if loop:
        kind = type_name(loop)
        if not kind:
            kind = 'EpochBasedTrainLoop' if loop.pop('by_epoch', True) else 'IterBasedTrainLoop'
        if kind in LOOPS:
            loop['type'] = LOOPS[kind]
            added.append(loop['type'])
    return added


def drop_hooks_set_to_none(cfg: Config) -> None:
    """Drop hooks set to None, in place; mmengine accepts None for its own hooks only."""
    own = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {n: hook for n, hook in hooks.items() if hook is not None or n in own}
