"""A check of what training resumes from."""

import os
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import CheckpointError, UserError


@HOOKS.register_module()
class CheckResumeHook(Hook):
    """Trust a checkpoint that training resumes from with numbers, not with files.

    mmengine takes from it where the best checkpoint is, and deletes that, be it a file or a whole
    folder, when it has a better one. Here only files in the run's own work dir are taken over.
    Whatever mmengine cannot resume from is refused in one sentence.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Wrap the loading, which follows."""
        load_or_resume = runner.load_or_resume

        def load_or_explain() -> None:
            try:
                load_or_resume()
            except (UserError, FileNotFoundError):
                raise
            except Exception as error:  # mmengine and torch index and call what they find
                reason = ' '.join(f'{type(error).__name__}: {error}'.split())
                raise CheckpointError(
                    f'checkpoint {runner._load_from!r} does not fit this training ({reason}); use '
                    'one that this config wrote'
                ) from error

        runner.load_or_resume = load_or_explain

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what is resumed besides the weights, and take files elsewhere out of it.

        Raises:
            CheckpointError: If it is not what a training saves.
        """
        if not runner._resume:
            return
        meta = _entry(checkpoint, 'meta', dict)
        for name in ('epoch', 'iter'):
            if _entry(meta, name, int) < 0:
                raise CheckpointError(
                    f'the checkpoint says {name} {meta[name]}, expected 0 or more'
                )
        if meta.get('seed') is not None:
            _entry(meta, 'seed', int)
        hub = _entry(checkpoint, 'message_hub', dict)
        for name in ('log_scalars', 'runtime_info', 'resumed_keys'):
            _entry(hub, name, dict)
        info = hub['runtime_info']
        for name in list(info):
            if not _harmless(name, info[name], runner.work_dir):
                runner.logger.warning(f'{name} of the checkpoint is not taken over: {info[name]!r}')
                del info[name]


def _entry(values: dict, name: str, kind: type) -> Any:
    """Return what stands under a name.

    Raises:
        CheckpointError: If nothing does, or something of another kind.
    """
    value = values.get(name)
    if type(value) is not kind and not (kind is dict and isinstance(value, dict)):
        raise CheckpointError(
            f'the checkpoint cannot be resumed from: its {name} is {_short(value)}, expected '
            f'{kind.__name__}; use one that a training saved'
        )
    return value


def _short(value: object) -> str:
    return 'missing' if value is None else f'a {type(value).__name__}'


def _harmless(name: object, value: object, work_dir: str) -> bool:
    """Tell whether an entry of the message hub names no files but the run's own."""
    if name == 'keep_ckpt_ids':
        return isinstance(value, list) and all(type(number) is int for number in value)
    if not str(name).startswith(('best_ckpt', 'last_ckpt')) or value is None:
        return True
    if not isinstance(value, str):
        return False
    root, path = os.path.realpath(work_dir), os.path.realpath(value)
    return path.startswith(os.path.join(root, '')) and not os.path.isdir(path)
