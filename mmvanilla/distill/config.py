"""Distillation in configs: the model stays the student, a hook has the teacher."""

from mmengine.config import Config

from ..errors import UserError
from ..type_name import type_name


def use_hook(cfg: Config) -> None:
    """Replace a ``DistilledModel`` in a config by its student and a ``DistillHook``, in place."""
    if type_name(cfg.get('model')) == 'DistilledModel':
        model = dict(cfg.model)
        cfg.model = model.pop('student')
        _set_hook(cfg, **{**model, 'type': 'DistillHook'})


def add_teacher(cfg: Config, teacher: str) -> None:
    """Let the model of a config learn from a teacher, in place.

    Other settings of a ``DistillHook`` in ``default_hooks.distill`` stay.

    Args:
        cfg: The config.
        teacher: ``CONFIG@CHECKPOINT``; CONFIG is a path, a name such as ``mmdet::...``, or a
            config of this package.

    Raises:
        UserError: If one of the two is missing.
    """
    config, _, checkpoint = teacher.partition('@')
    if not config or not checkpoint:
        raise UserError(
            f'the teacher is {teacher!r}; expected CONFIG@CHECKPOINT; name a config and its '
            'trained weights'
        )
    present = (cfg.get('default_hooks') or {}).get('distill') or {}
    hook = dict(present, type='DistillHook', teacher=config, teacher_checkpoint=checkpoint)
    _set_hook(cfg, **hook)


def _set_hook(cfg: Config, **hook: object) -> None:
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, distill=hook)
