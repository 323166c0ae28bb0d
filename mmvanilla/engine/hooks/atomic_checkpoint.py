"""Save checkpoints so that a kill at any moment loses none."""

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.utils import apply_to

from ...errors import UserError
from ...whole_files import lock, replace_file
from ..latest import NOTHING_YET

INTERRUPTED = 'interrupted.pth'


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


class RemovingLater:
    """A storage backend that only notes which files to remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note a file."""
        self.removed.append(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Save checkpoints as mmengine's hook does, but so that a kill at any moment loses none.

    A new checkpoint is complete on the disk before ``last_checkpoint`` names it, and that before
    an older one is removed to keep ``max_keep_ckpts`` or because a better one was found. While a
    training runs no other one may use its work dir. A resumed run finds its files by name in its
    own folder, wherever that was copied.

    Checkpoints hold tensors, numbers and strings, so that any program can load them:
    ``torch.load(weights_only=True)``, its default, refuses what mmengine saves by itself.

    Args:
        backend_args: Config of the storage backend; local files by default.
        kwargs: Arguments of mmengine's ``CheckpointHook``.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or dict(backend='atomic'), **kwargs)
        self._lock: IO | None = None
        self._continues = self._warned = False

    def before_train(self, runner: Runner) -> None:
        """Lock the work dir, and find the files of this run and of others.

        Raises:
            UserError: In every process, if another training uses the work dir.
        """
        refusal: list = [None]
        if is_main_process():
            try:
                self._lock = lock(runner.work_dir)
            except UserError as error:
                refusal = [str(error)]
        broadcast_object_list(refusal)
        if refusal[0]:
            raise UserError(refusal[0])
        folder = Path(self.out_dir or runner.work_dir)
        if str(folder) != runner.work_dir:
            folder /= Path(runner.work_dir).name
        self._look_up(runner, folder)
        super().before_train(runner)
        for file in folder.glob('.*.pth.partial'):
            self._remove(str(file))

    def _look_up(self, runner: Runner, folder: Path) -> None:
        """Keep of a resumed run's files those that are in its folder; warn of others there."""
        source = runner._load_from or find_latest_checkpoint(runner.work_dir)
        own = runner._resume and source and Path(source).resolve().parent == folder.resolve()
        self._continues = bool(own or self.last_ckpt)
        info, watched = runner.message_hub.runtime_info, self.save_best or []
        best = ['best_ckpt'] if len(watched) == 1 else [f'best_ckpt_{key}' for key in watched]
        for name in [n for n in info if n.startswith(('best_ckpt', 'last_ckpt'))]:
            file = folder / Path(str(info[name])).name
            if self._continues and name in [*best, 'last_ckpt'] and file.is_file():
                info[name] = str(file)
            else:
                info.pop(name)
                info.pop(name.replace('ckpt', 'score'), None)
        numbers = info.get('keep_ckpt_ids', []) if self._continues else []
        found = [n for n in numbers if (folder / self.filename_tmpl.format(n)).is_file()]
        info['keep_ckpt_ids'] = found
        others = sorted(folder.glob(self.filename_tmpl.format('*')), key=os.path.getmtime)
        if others and not self._continues and is_main_process():
            runner.logger.warning(
                f'{str(folder)!r} holds {others[-1].name} of another training; this one replaces '
                'files of the same names and removes none; use another work_dir, or --resume'
            )
            replace_file(f'{runner.work_dir}/last_checkpoint', NOTHING_YET.encode())

    def abandon(self, runner: Runner) -> None:
        """Let others use the work dir."""
        if self._lock:
            self._lock.close()

    def after_train(self, runner: Runner) -> None:
        """Publish as mmengine's hook does, and let others use the work dir."""
        super().after_train(runner)
        self.abandon(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make all but the weights plain."""
        for name in checkpoint.keys() & {'meta', 'message_hub', 'param_schedulers'}:
            checkpoint[name] = plain(checkpoint[name])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn logs back into buffers, which mmengine resumes."""
        hub = checkpoint.get('message_hub') or {}
        if 'log_scalars' in hub:
            hub['log_scalars'] = apply_to(
                hub['log_scalars'],
                torch.is_tensor,
                lambda history: HistoryBuffer(*history.cpu().numpy()),
            )

    def save_interrupted(self, runner: Runner) -> str:
        """Save ``interrupted.pth`` after the current iteration; return its path."""
        return self._write(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = [INTERRUPTED] if self._continues else []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(step), meta)
        for name in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend = getattr(self, 'file_backend', None)
        if backend is None:  # a validation by itself, which saves nothing
            return
        self.file_backend = later = RemovingLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        info = runner.message_hub.runtime_info
        best = {path for name, path in info.items() if name.startswith('best_ckpt')}
        for path in set(later.removed) - best:
            self._remove(path)

    def _write(self, runner: Runner, name: str, meta: dict) -> str:
        """Write a checkpoint to resume from, then the file that names it."""
        self._warn_of_gradients(runner)
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

    def _warn_of_gradients(self, runner: Runner) -> None:
        """Warn once that gradients are waiting for the rest of an accumulation."""
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if self._warned or each.should_update():
                continue
            self._warned, every = True, each._accumulative_counts  # which has no public name
            runner.logger.warning(
                f'A checkpoint is saved after {each.inner_count % every} of {every} batches of an '
                'accumulation, whose gradients are not in it, so that a resumed run differs; save '
                f'by iterations (by_epoch=False), at an interval that is a multiple of {every}'
            )

    def _remove(self, path: str) -> None:
        """Remove a file that a newer or better one replaces."""
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)
