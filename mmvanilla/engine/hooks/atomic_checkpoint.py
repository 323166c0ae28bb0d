"""Checkpoints of which the last good one is whole at any moment."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.utils import apply_to

INTERRUPTED = 'interrupted.pth'


def replace_file(file: str, content: bytes) -> None:
    """Write a file so that at any moment, also of a power cut, the old or the new one is whole.

    Args:
        file: Where to write; missing folders are made.
        content: All of it.

    Raises:
        OSError: If it cannot be written; the old file stays, and nothing else.
    """
    folder, name = os.path.split(os.path.abspath(file))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f'.{name}.partial')
    try:
        with open(partial, 'wb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, os.path.join(folder, name))
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise OSError(error.errno, error.strerror, file) from error
    # The new name is in the folder, which is a file as well.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """Return Python's own dicts and numbers for OpenMMLab's and numpy's, logs as tensors (2, N)."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, HistoryBuffer):
        return torch.from_numpy(np.stack(value.data))
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


class AtomicBackend(LocalBackend):
    """Local files that are replaced at once or not at all."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Write a file."""
        replace_file(filepath, obj)


register_backend('atomic', AtomicBackend)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Save checkpoints as mmengine's hook does, but so that a kill at any moment loses none.

    A new checkpoint is complete on the disk before ``last_checkpoint`` names it, and that before
    an older one is removed to keep ``max_keep_ckpts`` or because a better one was found.

    Checkpoints hold tensors, numbers and texts, so that any program can load them:
    ``torch.load(weights_only=True)``, its default, refuses what mmengine saves by itself.

    Args:
        backend_args: Where to write, by default local files.
        kwargs: As of mmengine's ``CheckpointHook``.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or dict(backend='atomic'), **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and clear away what a kill left half-written."""
        super().before_train(runner)
        for file in Path(self.out_dir).glob('.*.pth.partial'):
            self._remove(str(file))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make all but the weights plain."""
        for name in checkpoint.keys() & {'meta', 'message_hub', 'param_schedulers'}:
            checkpoint[name] = plain(checkpoint[name])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn what was logged back, which mmengine would not resume otherwise."""
        hub = checkpoint.get('message_hub') or {}
        if 'log_scalars' in hub:
            hub['log_scalars'] = apply_to(
                hub['log_scalars'],
                torch.is_tensor,
                lambda history: HistoryBuffer(*history.cpu().numpy()),
            )

    def save_interrupted(self, runner: Runner) -> str:
        """Save after the current iteration under a name of its own, and return the path."""
        return self._write(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = [INTERRUPTED]
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(step), meta)
        for name in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        before = self._best_paths()
        self._set_best_paths(dict.fromkeys(before))  # the parent would remove these first
        super()._save_best_checkpoint(runner, metrics)
        after = {key: path or before[key] for key, path in self._best_paths().items()}
        self._set_best_paths(after)
        for path in filter(None, set(before.values()) - set(after.values())):
            self._remove(path)

    def _best_paths(self) -> dict[str, str | None]:
        """Return the best checkpoint of every metric that is watched, of a single one under ''."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _write(self, runner: Runner, name: str, meta: dict) -> str:
        """Write a checkpoint from which training can go on, then the file that names it."""
        path = self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', path)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            replace_file(f'{runner.work_dir}/last_checkpoint', path.encode())
        return path

    def _remove(self, path: str) -> None:
        """Remove what a newer or better checkpoint has made superfluous."""
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)
