"""Save checkpoints so that a kill at any moment loses none."""

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.utils import apply_to

from ...whole_files import lock, replace_file
from ..distributed import together
from ..latest import NOTHING_YET, checkpoint_folder

INTERRUPTED = 'interrupted.pth'


def plain(value: Any) -> Any:
    """Convert to Python's own dicts and numbers, and logs to tensors (2, N)."""
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
    """A storage backend that notes outdated files instead of removing them at once."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.outdated: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note a file."""
        self.outdated.add(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, except that a kill at any moment loses no checkpoint.

    A new checkpoint is complete on the disk before ``last_checkpoint`` names it. Only then the hook
    removes older ones. While a training runs, no other one may use its work dir. A resumed run
    finds its files by name in its own folder, which may be a copy. ``torch.load`` reads the
    checkpoints with ``weights_only=True``, since they hold tensors, numbers and strings only.

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
            UserError: If another training uses the work dir.
        """
        self._lock = together(lambda: lock(runner.work_dir) if is_main_process() else None)
        folder = checkpoint_folder(runner.work_dir, self.out_dir)
        self._find_own_files(runner, folder)
        super().before_train(runner)
        self.file_backend: Any = RemovingLater(self.file_backend)
        if is_main_process():
            for file in filter(Path.is_file, folder.glob('.*.pth.partial')):
                file.unlink()

    def _find_own_files(self, runner: Runner, folder: Path) -> None:
        """Correct the paths of a resumed run; warn of files of another training."""
        source = runner._load_from or find_latest_checkpoint(runner.work_dir)
        own = runner._resume and source and Path(source).resolve().parent == folder.resolve()
        self._continues = bool(own or self.last_ckpt)
        info = runner.message_hub.runtime_info
        for name in [n for n in info if n.startswith(('best_ckpt', 'last_ckpt'))]:
            file = folder / Path(str(info[name])).name
            if self._continues and file.is_file():
                info[name] = str(file)
            else:
                info.pop(name)
                info.pop(name.replace('ckpt', 'score'), None)
        if self._continues:
            return
        info.pop('keep_ckpt_ids', None)
        others = sorted(folder.glob(self.filename_tmpl.format('*')), key=os.path.getmtime)
        if others and is_main_process():
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
        """Convert logs and metadata to tensors and Python's own types."""
        for name in checkpoint.keys() & {'meta', 'message_hub', 'param_schedulers'}:
            checkpoint[name] = plain(checkpoint[name])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn logs back into buffers, which mmengine resumes."""
        hub = checkpoint.get('message_hub') or {}
        if 'log_scalars' in hub:
            logs = hub['log_scalars']
            logs = apply_to(logs, torch.is_tensor, lambda log: HistoryBuffer(*log.cpu().numpy()))
            hub['log_scalars'] = logs

    def save_interrupted(self, runner: Runner) -> str:
        """Save ``interrupted.pth`` after the current iteration; return its path."""
        self._write(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))
        return self.last_ckpt

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = [INTERRUPTED] if self._continues else []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._write(runner, self.filename_tmpl.format(step), meta)
        for name in outdated:
            self.file_backend.remove(self.file_backend.join_path(self.out_dir, name))
        self._remove_outdated(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if hasattr(self, 'file_backend'):  # else a validation without training, which saves nothing
            super()._save_best_checkpoint(runner, metrics)
            self._remove_outdated(runner)

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        """Write a checkpoint with optimizer, then ``last_checkpoint``."""
        self._warn_of_gradients(runner)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            replace_file(f'{runner.work_dir}/last_checkpoint', self.last_ckpt.encode())

    def _warn_of_gradients(self, runner: Runner) -> None:
        """Warn once that gradients are waiting for the rest of an accumulation."""
        wrapper = runner.optim_wrapper
        if self._warned or isinstance(wrapper, OptimWrapperDict) or wrapper.should_update():
            return
        self._warned, every = True, wrapper._accumulative_counts  # no public name
        runner.logger.warning(
            f'A checkpoint is saved after {wrapper.inner_count % every} of {every} batches of an '
            'accumulation without their gradients, so a resumed run differs; save by iterations '
            f'(by_epoch=False) with an interval of {every}, or a multiple'
        )

    def _remove_outdated(self, runner: Runner) -> None:
        """Remove the noted files, except new ones of the same names."""
        backend, info = self.file_backend, runner.message_hub.runtime_info
        best = {path for name, path in info.items() if name.startswith('best_ckpt')}
        for path in backend.outdated - best:
            if is_main_process() and backend.isfile(path):
                backend.backend.remove(path)
        backend.outdated.clear()
