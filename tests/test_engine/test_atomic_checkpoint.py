"""A kill, a full disk or a damaged file never costs the last good checkpoint."""

import errno
import multiprocessing
import os
import shutil
import signal
import zipfile

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from mmengine.runner import Runner
from toy_training import toy_config, toy_loader

from mmvanilla.engine import AtomicCheckpointHook
from mmvanilla.engine.hooks.switch_to_deploy import kept_checkpoint
from mmvanilla.engine.latest import latest_checkpoint, naming_last_checkpoint
from mmvanilla.errors import CheckpointError, UserError
from mmvanilla.safe_load import load_from_local
from mmvanilla.whole_files import lock


@MODELS.register_module()
class Counter(BaseModel):
    """A model with one weight, which counts iterations; ``Scores`` returns ``scores``."""

    scores = []

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        return dict(loss=-self.weight.sum()) if mode == 'loss' else inputs

    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self(data, 'loss')['loss'])
        return dict(loss=torch.zeros(()))

    def val_step(self, data):
        return data


@METRICS.register_module()
class Scores(BaseMetric):
    """A metric that returns the scores of ``Counter`` in turn."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(first=Counter.scores.pop(0), second=1.0)


def train(work_dir, epochs, hook=(), resume=False, **options):
    loader = toy_loader([torch.zeros(1)], batch_size=1)
    if Counter.scores:
        options |= dict(val_dataloader=loader, val_cfg={}, val_evaluator=dict(type='Scores'))
    hook = {'type': 'AtomicCheckpointHook', 'interval': 1, **dict(hook)}
    if resume is True:
        resume = latest_checkpoint(str(work_dir), hook.get('out_dir'))
    defaults = dict(
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        default_hooks=dict(checkpoint=hook),
        resume=bool(resume),
        load_from=resume or None,
    )
    loop = dict(type='ResumableEpochLoop', max_epochs=epochs)
    runner = Runner.from_cfg(toy_config(work_dir, 'Counter', loader, loop, **(defaults | options)))
    runner.logger.warning = warnings.append
    runner.train()
    return runner


warnings = []


@pytest.fixture(autouse=True)
def _no_scores():
    Counter.scores = []
    warnings.clear()


def kept(work_dir):
    return sorted(file.name for file in work_dir.iterdir() if 'pth' in file.name)


def weight(file):
    return load_from_local(str(file))['state_dict']['weight'].item()


class Killed(BaseException):
    """An exception that no code may catch or clean up after."""


def stop_at(monkeypatch, function, file, error):
    """Let a function of os fail for a file."""
    original = getattr(os, function)

    def failing(target, *args):
        name = os.readlink(f'/proc/self/fd/{target}') if isinstance(target, int) else target
        if os.path.basename(name) == file:
            raise error
        return original(target, *args)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize('function', ['fsync', 'replace'])
@pytest.mark.parametrize('file', ['.epoch_3.pth.partial', '.last_checkpoint.partial'])
def test_killed_while_writing(tmp_path, monkeypatch, function, file):
    train(tmp_path, 2, dict(max_keep_ckpts=1))
    stop_at(monkeypatch, function, file, Killed())
    with pytest.raises(Killed):
        train(tmp_path, 4, dict(max_keep_ckpts=1), resume=True)
    monkeypatch.undo()
    found = latest_checkpoint(str(tmp_path))
    assert found == str(tmp_path / 'epoch_2.pth')
    assert weight(found) == 2
    runner = train(tmp_path, 4, dict(max_keep_ckpts=1), resume=True)
    assert runner.model.weight.item() == 4
    assert weight(tmp_path / 'epoch_4.pth') == 4
    assert 'epoch_4.pth' in kept(tmp_path)
    assert 'epoch_2.pth' not in kept(tmp_path)


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS])
def test_no_room_or_no_right_to_write(tmp_path, monkeypatch, code):
    stop_at(monkeypatch, 'fsync', '.epoch_3.pth.partial', OSError(code, os.strerror(code)))
    with pytest.raises(UserError) as error, naming_last_checkpoint(str(tmp_path), OSError):
        train(tmp_path, 4, dict(max_keep_ckpts=1))
    assert f"{os.strerror(code)}: '{tmp_path}/epoch_3.pth'" in str(error.value)
    assert f"the last good checkpoint is '{tmp_path}/epoch_2.pth'" in str(error.value)
    assert '\n' not in str(error.value)
    assert kept(tmp_path) == ['epoch_2.pth']
    assert weight(tmp_path / 'epoch_2.pth') == 2


def test_a_disk_that_is_full_indeed(tmp_path):
    if not os.path.exists('/dev/full'):
        pytest.skip('there is no /dev/full')
    train(tmp_path, 2)
    (tmp_path / '.epoch_3.pth.partial').symlink_to('/dev/full')
    with pytest.raises(UserError) as error, naming_last_checkpoint(str(tmp_path), OSError):
        train(tmp_path, 4, resume=True)
    assert 'No space left on device' in str(error.value)
    assert 'epoch_2.pth' in str(error.value)
    assert kept(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']


def test_older_ones_are_removed_after_newer_ones_are_written(tmp_path):
    train(tmp_path, 5, dict(max_keep_ckpts=2))
    assert kept(tmp_path) == ['epoch_4.pth', 'epoch_5.pth']
    train(tmp_path, 6, dict(max_keep_ckpts=2), resume=True)
    assert kept(tmp_path) == ['epoch_5.pth', 'epoch_6.pth']


@pytest.mark.parametrize('metrics', ['first', ['first', 'second']])
def test_the_best_one_stays_until_a_better_one_is_written(tmp_path, monkeypatch, metrics):
    Counter.scores = [1.0, 3.0, 2.0, 4.0]
    hook = dict(max_keep_ckpts=1, save_best=metrics, rule='greater')
    stop_at(monkeypatch, 'fsync', '.best_first_epoch_4.pth.partial', Killed())
    with pytest.raises(Killed):
        train(tmp_path, 4, hook)
    assert 'best_first_epoch_2.pth' in kept(tmp_path)
    assert 'best_first_epoch_1.pth' not in kept(tmp_path)
    assert weight(tmp_path / 'best_first_epoch_2.pth') == 2
    monkeypatch.undo()
    Counter.scores = [4.0]
    runner = train(tmp_path, 5, hook, resume=True)
    assert [name for name in kept(tmp_path) if 'first' in name] == ['best_first_epoch_5.pth']
    info = runner.message_hub.runtime_info
    path = info['best_ckpt' if isinstance(metrics, str) else 'best_ckpt_first']
    assert path == str(tmp_path / 'best_first_epoch_5.pth')


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def without_optimizer(file):
    torch.save(dict(state_dict={}, meta=dict(iter=1)), file)


@pytest.mark.parametrize('damage', [truncate, without_optimizer, os.remove])
def test_falls_back_to_the_newest_that_is_whole(tmp_path, damage):
    train(tmp_path, 3)
    for number in (1, 2, 3):
        os.utime(tmp_path / f'epoch_{number}.pth', (number, number))
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    damage(tmp_path / 'epoch_3.pth')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    assert train(tmp_path, 4, resume=True).model.weight.item() == 4
    for number in (1, 2, 4):
        (tmp_path / f'epoch_{number}.pth').write_bytes(b'')
    (tmp_path / 'epoch_3.pth').unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match='no checkpoint in .* is whole'):
        latest_checkpoint(str(tmp_path))


def test_sees_a_flipped_bit(tmp_path):
    train(tmp_path, 2)
    file = tmp_path / 'epoch_2.pth'
    content = file.read_bytes()
    two = torch.tensor([2.0]).numpy().tobytes()
    with zipfile.ZipFile(file) as archive:  # other members may contain the same bytes
        member = next(m for m in archive.infolist() if archive.read(m) == two)
    stored = content.index(two, member.header_offset + 30 + len(member.filename))
    file.write_bytes(content[:stored] + b'\1' + content[stored + 1 :])
    assert weight(file) != 2  # torch.load does not see it
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')


@pytest.mark.parametrize('content', [None, '', 'elsewhere/epoch_2.pth', '\0'])
def test_a_missing_or_broken_last_checkpoint(tmp_path, content):
    train(tmp_path, 2)
    (tmp_path / 'last_checkpoint').unlink()
    if content is not None:
        (tmp_path / 'last_checkpoint').write_text(content)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')


def test_a_training_that_is_complete_says_so(tmp_path):
    train(tmp_path, 2)
    assert not any('complete' in text for text in warnings)
    runner = train(tmp_path, 2, resume=True)
    assert runner.model.weight.item() == 2
    assert sum('complete after 2 of 2 iterations' in text for text in warnings) == 1


def test_nothing_to_resume(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    assert latest_checkpoint(str(tmp_path / 'new')) is None
    with (
        pytest.raises(UserError, match='^disk gone$'),
        naming_last_checkpoint(str(tmp_path), OSError),
    ):
        # An error of a data-loading worker, as torch raises it.
        raise OSError(
            'Caught OSError in DataLoader worker process 0.\n'
            'Original Traceback (most recent call last):\n  File ...\nOSError: disk gone\n'
        )


@pytest.mark.parametrize('code', [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES])
@pytest.mark.parametrize('function', ['fsync', 'open'])
@pytest.mark.parametrize('target', ['folder', 'file'])
def test_a_file_system_that_cannot_sync_does_not_end_a_training(
    target, function, code, tmp_path, monkeypatch
):
    name = tmp_path.name if target == 'folder' else '.epoch_1.pth.partial'
    stop_at(monkeypatch, function, name, OSError(code, os.strerror(code)))
    train(tmp_path, 2)
    assert kept(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')


@pytest.mark.parametrize('target', ['folder', 'file'])
def test_a_disk_that_fails_while_it_is_synced_is_no_such_file_system(target, tmp_path, monkeypatch):
    name = tmp_path.name if target == 'folder' else '.epoch_1.pth.partial'
    stop_at(monkeypatch, 'fsync', name, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        train(tmp_path, 2)


def hold_lock(folder, connection):
    held = lock(folder)
    connection.send(f'locked {held.name}')
    signal.pause()


@pytest.fixture
def lock_elsewhere(tmp_path):
    """Lock the work dir in another process; return that process."""
    context, started = multiprocessing.get_context('fork'), []

    def start():
        ours, theirs = context.Pipe()
        started.append(context.Process(target=hold_lock, args=(str(tmp_path), theirs)))
        started[-1].start()
        theirs.close()
        assert ours.recv().startswith('locked')  # or EOFError
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def test_two_trainings_at_once_in_one_work_dir(lock_elsewhere, tmp_path):
    other = lock_elsewhere()
    with pytest.raises(UserError, match='is in use by another training') as refusal:
        train(tmp_path, 1)
    assert repr(str(tmp_path)) in str(refusal.value)
    assert kept(tmp_path) == []
    other.kill()  # as pre-emption does
    other.join()
    train(tmp_path, 1)
    assert kept(tmp_path) == ['epoch_1.pth']


class Fails(Hook):
    def after_train_iter(self, runner, **kwargs):
        raise RuntimeError('loss is nan')


def test_a_failed_training_unlocks_its_work_dir(lock_elsewhere, tmp_path):
    with pytest.raises(RuntimeError, match='loss is nan') as failed:
        train(tmp_path, 1, custom_hooks=[dict(type=Fails)])
    train(tmp_path, 1)  # in this process, as in a notebook
    lock_elsewhere()
    assert failed  # its traceback still holds the runner


def test_a_file_system_without_locks_is_no_fault(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr('fcntl.lockf', no_locks)
    train(tmp_path, 1)
    assert kept(tmp_path) == ['epoch_1.pth']


def test_a_second_training_in_a_work_dir_leaves_the_files_of_the_first(tmp_path):
    train(tmp_path, 4)
    (tmp_path / 'interrupted.pth').write_bytes(b'of the first')
    warnings.clear()
    train(tmp_path, 3, dict(max_keep_ckpts=1))
    (warning,) = [text for text in warnings if 'of another training' in text]
    assert 'epoch_4.pth' in warning
    assert kept(tmp_path) == ['epoch_3.pth', 'epoch_4.pth', 'interrupted.pth']
    assert weight(tmp_path / 'epoch_4.pth') == 4
    # From the newest run, although the older one has a later epoch.
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')


def test_a_second_training_that_saved_nothing_is_not_resumed_from_the_first(tmp_path):
    train(tmp_path, 2)
    with pytest.raises(RuntimeError, match='loss is nan'):
        train(tmp_path, 3, custom_hooks=[dict(type=Fails)])
    assert latest_checkpoint(str(tmp_path)) is None
    train(tmp_path, 1)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')


def test_resuming_from_elsewhere_removes_nothing_of_others(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    Counter.scores = [1.0, 2.0, 3.0, 4.0, 9.0]
    hook = dict(max_keep_ckpts=2, save_best='first', rule='greater')
    train(first, 2, hook)
    train(second, 2, hook)
    train(second, 3, hook, resume=str(first / 'epoch_2.pth'))
    assert [name for name in kept(second) if 'best' not in name] == [
        *('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    ]
    assert 'best_first_epoch_2.pth' in kept(first)
    assert {'best_first_epoch_2.pth', 'best_first_epoch_3.pth'} <= set(kept(second))


@pytest.mark.parametrize('how', [shutil.copytree, shutil.move])
def test_a_copied_work_dir_goes_on_by_itself(how, tmp_path):
    Counter.scores = [1.0, 2.0, 3.0]
    hook = dict(max_keep_ckpts=1, save_best='first', rule='greater')
    original, copied = tmp_path / 'original', tmp_path / 'copied'
    train(original, 2, hook)
    before = kept(original)
    how(original, copied)
    assert latest_checkpoint(str(copied)) == str(copied / 'epoch_2.pth')
    runner = train(copied, 3, hook, resume=True)
    assert kept(copied) == ['best_first_epoch_3.pth', 'epoch_3.pth']
    if how is shutil.copytree:
        assert kept(original) == before
        (copied / 'epoch_3.pth').unlink()
        with pytest.raises(CheckpointError):
            latest_checkpoint(str(copied))
    assert runner.message_hub.get_info('last_ckpt') == str(copied / 'epoch_3.pth')


@pytest.mark.parametrize('metrics', ['first', ['first', 'second']])
def test_checkpoints_elsewhere_remember_the_best_one(metrics, tmp_path):
    work, out = tmp_path / 'work', tmp_path / 'out'
    hook = dict(max_keep_ckpts=1, save_best=metrics, rule='greater', out_dir=str(out))
    Counter.scores = [1.0, 3.0, 2.0, 4.0]
    train(work, 2, hook)
    assert latest_checkpoint(str(work)) == str(out / 'work/epoch_2.pth')
    assert latest_checkpoint(str(work), str(out)) == str(out / 'work/epoch_2.pth')
    runner = train(work, 3, hook, resume=True)
    assert kept_checkpoint(runner) == str(out / 'work/best_first_epoch_2.pth')
    runner = train(work, 4, hook, resume=True)
    assert kept_checkpoint(runner) == str(out / 'work/best_first_epoch_4.pth')
    assert [name for name in kept(out / 'work') if 'second' not in name] == [
        *('best_first_epoch_4.pth', 'epoch_4.pth')
    ]


def test_a_best_checkpoint_that_is_no_longer_watched_is_stale(tmp_path):
    Counter.scores = [1.0, 3.0, 2.0]
    train(tmp_path, 2, dict(save_best='first', rule='greater'))
    runner = train(tmp_path, 3, resume=True)
    assert kept_checkpoint(runner) == str(tmp_path / 'epoch_3.pth')


@pytest.mark.parametrize(('interval', 'pending'), [(2, False), (1, True)])
def test_gradients_of_an_accumulation_are_not_in_a_checkpoint(interval, pending, tmp_path):
    wrapper = dict(optimizer=dict(type='SGD', lr=1.0), accumulative_counts=2)
    train(tmp_path, 4, dict(interval=interval), optim_wrapper=wrapper)
    found = [text for text in warnings if 'accumulation' in text]
    assert len(found) == pending
    assert all('1 of 2 batches' in text for text in found)


def test_a_validation_without_a_training_saves_nothing(tmp_path):
    Counter.scores = [1.0, 2.0]
    runner = train(tmp_path / 'train', 1, dict(save_best='first', rule='greater'))
    hook = AtomicCheckpointHook(save_best='first', rule='greater')
    hook.after_val_epoch(runner, dict(first=9.0))
    assert 'best_first_epoch_1.pth' in kept(tmp_path / 'train')


def test_a_checkpoint_that_is_refused_is_not_recommended(tmp_path):
    train(tmp_path, 1)
    with (
        pytest.raises(CheckpointError, match='^other classes$'),
        naming_last_checkpoint(str(tmp_path), UserError),
    ):
        raise CheckpointError('other classes')
