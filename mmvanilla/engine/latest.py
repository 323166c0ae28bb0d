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

_warn = partial(print_log, logger='current', level=logging.WARNING)
NOTHING_YET = 'nothing saved yet'  # in last_checkpoint of a training among files of an older one


def latest_checkpoint(work_dir: str, out_dir: str | None = None) -> str | None:
    """Return the checkpoint that ``last_checkpoint`` names, or else the newest one that is whole.

    Only the name of the file counts, since the folder may have been copied or moved. A warning
    tells if the checkpoint is not the named one.

    Args:
        work_dir: Folder of a training.
        out_dir: ``out_dir`` of the checkpoint hook. If None, a checkpoint elsewhere is found only
            if the work dir has none.

    Returns:
        The path, or None if nothing was saved yet.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    pointer, folder = Path(work_dir, 'last_checkpoint'), checkpoint_folder(work_dir, out_dir)
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    files = sorted(map(str, folder.glob('*.pth')), key=os.path.getmtime, reverse=True)
    if named == NOTHING_YET:
        _warn(f'the last training in {work_dir!r} saved nothing; begin again, its files are older')
        return None
    expected = str(folder / Path(named).name) if files else named  # elsewhere, without out_dir
    for file in filter(None, [expected, *files]):
        if _is_resumable(file):
            if file != expected:
                text = f'{str(pointer)!r} names {named!r}, which is missing or broken; '
                _warn(f'{text}going on from {file!r}, the newest whole one')
            return file
    if named or files:
        raise CheckpointError(
            f'no checkpoint in {work_dir!r} is whole and has an optimizer state; give another one '
            'with --resume CHECKPOINT, or begin again without --resume'
        )
    return None


def checkpoint_folder(work_dir: str, out_dir: str | None) -> Path:
    """Return the folder where mmengine's CheckpointHook saves."""
    folder = Path(work_dir)
    return Path(out_dir, folder.resolve().name) if out_dir and Path(out_dir) != folder else folder


def _is_resumable(file: str) -> bool:
    """Return whether a checkpoint is whole, to the last bit, and has an optimizer state."""
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
    """Add the checkpoint to resume from to errors, and raise them as UserError.

    An error about a checkpoint stays as it is.

    Args:
        work_dir: Folder of the training.
        kinds: Types such as OSError: a full disk, a read-only folder, missing data.
    """
    try:
        yield
    except CheckpointError:
        raise
    except kinds as error:
        last = None
        with suppress(UserError, OSError):
            last = latest_checkpoint(work_dir)
        rest = f'; the last good checkpoint is {last!r}, go on from it with --resume'
        raise UserError(sentence(error) + (rest if last else '')) from error
