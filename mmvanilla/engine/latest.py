"""Find the checkpoint to resume an interrupted training from."""

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError, UserError, sentence
from ..models import safe_loading

NOTHING_YET = 'nothing saved yet'  # in last_checkpoint of a training among files of an older one


warn = partial(print_log, logger='current', level=logging.WARNING)


def latest_checkpoint(work_dir: str, out_dir: str | None = None) -> str | None:
    """Return the checkpoint that ``last_checkpoint`` names, or else the newest one that is whole.

    It is looked up by its name in the training's own folder, which may have been copied or moved.

    Args:
        work_dir: Folder of a training.
        out_dir: ``out_dir`` of the checkpoint hook, by default None. A checkpoint elsewhere is then
            taken only where the work dir has none.

    Returns:
        The path, or None where nothing was saved yet; the log says where it is not the named one.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    pointer, folder = Path(work_dir, 'last_checkpoint'), Path(work_dir)
    if out_dir and Path(out_dir) != folder:
        folder = Path(out_dir, folder.resolve().name)  # as mmengine's hook does
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    files = sorted(folder.glob('*.pth'), key=os.path.getmtime, reverse=True)
    if named == NOTHING_YET:
        warn(f'{work_dir!r} is of a training that saved nothing; it begins anew, files are older')
        return None
    expected = [str(folder / Path(named).name)] if named else []
    if named and not files:
        expected.append(named)
    for file in [*expected, *map(str, files)]:
        if is_resumable(file):
            if file not in expected:
                reason = f'names {named!r}, which is missing or broken' if named else 'is missing'
                warn(f'{str(pointer)!r} {reason}; going on from {file!r}, the newest whole one')
            return file
    if named or files:
        raise CheckpointError(
            f'no checkpoint in {work_dir!r} is whole and holds what resuming needs; name one with '
            '--resume CHECKPOINT, or begin anew without --resume'
        )
    return None


def is_resumable(file: str) -> bool:
    """Tell whether a checkpoint is whole, to the last bit, and holds an optimizer's state."""
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:  # compares checksums, which torch.load does not
                return False
        with safe_loading():
            checkpoint = CheckpointLoader.load_checkpoint(file, 'meta', 'silent')
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return 'optimizer' in checkpoint and 'iter' in checkpoint.get('meta', {})


@contextmanager
def naming_last_checkpoint(work_dir: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise UserError, with the checkpoint to go on from, in place of other exceptions.

    Args:
        work_dir: Folder of the training.
        kinds: Types such as OSError: a full disk, a read-only folder, data that vanished.
    """
    try:
        yield
    except kinds as error:
        last = None
        with suppress(UserError, OSError):
            last = latest_checkpoint(work_dir)
        rest = f'; the last good checkpoint is {last!r}, go on from it with --resume'
        raise UserError(sentence(error) + (rest if last else '')) from error
