"""A check of what training resumes from."""

import os
from contextlib import nullcontext

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import CheckpointError, UserError
from ...models import safe_loading

META: dict[str, type] = dict(epoch=int, iter=int)
HUB: dict[str, type] = dict(log_scalars=dict, runtime_info=dict, resumed_keys=dict)


@HOOKS.register_module()
class CheckResumeHook(Hook):
    """Trust a checkpoint that training resumes from with numbers, not with files or code.

    It is loaded safely. mmengine takes from it where the best checkpoint is, and deletes that, be
    it a file or a whole folder, when it has a better one. Here only files in the run's own work dir
    are taken over. Whatever mmengine cannot resume from is refused in one sentence.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Wrap the loading, which follows."""
        load_or_resume = runner.load_or_resume

        def load_or_explain() -> None:
            try:
                with safe_loading() if runner._resume else nullcontext():
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
        _expect(checkpoint, {'meta': dict, 'message_hub': dict})
        meta, hub = checkpoint['meta'], checkpoint['message_hub']
        _expect(meta, META if meta.get('seed') is None else dict(META, seed=int))
        for name in META:
            if meta[name] < 0:
                raise CheckpointError(
                    f'the checkpoint says {name} {meta[name]}, expected 0 or more'
                )
        _expect(hub, HUB)
        info = hub['runtime_info']
        for name in list(info):
            if not _harmless(name, info[name], runner.work_dir):
                runner.logger.warning(f'{name} of the checkpoint is not taken over: {info[name]!r}')
                del info[name]


def _expect(values: dict, kinds: dict[str, type]) -> None:
    """Refuse a checkpoint where something is missing or of another kind than a training saves."""
    for name, kind in kinds.items():
        value = values.get(name)
        if type(value) is not kind and not (kind is dict and isinstance(value, dict)):
            found = 'missing' if value is None else f'a {type(value).__name__}'
            raise CheckpointError(
                f'the checkpoint cannot be resumed from: its {name} is {found}, expected '
                f'{kind.__name__}; use one that a training saved'
            )


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
