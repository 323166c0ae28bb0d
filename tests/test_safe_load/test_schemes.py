"""The switch and context manager: what holds when, and that loaders of others survive it."""

import threading

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmvanilla.errors import CheckpointError
from mmvanilla.safe_load import loading, safe_loading


@pytest.fixture(autouse=True)
def restored():
    """Take away what a test registers."""
    schemes = CheckpointLoader._schemes
    CheckpointLoader._schemes = schemes.copy()
    yield
    CheckpointLoader._schemes = schemes


@pytest.fixture
def file(tmp_path):
    torch.save(dict(state_dict=dict(w=torch.ones(1)), meta=dict(cfg='x = 1')), tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


@pytest.fixture
def is_safe(file):
    return lambda: 'cfg' not in CheckpointLoader.load_checkpoint(file)['meta']


def test_the_switch_acts_at_once(is_safe):
    before = dict(CheckpointLoader._schemes)
    assert not is_safe()
    safe_loading()
    assert is_safe()
    safe_loading()  # twice on is once off
    safe_loading(False)
    assert not is_safe()
    assert before == CheckpointLoader._schemes
    assert list(before) == list(CheckpointLoader._schemes)  # their order decides


def test_blocks_end_with_what_was_before(is_safe):
    with safe_loading():
        with safe_loading(False):
            assert not is_safe()
            with safe_loading():
                assert is_safe()
            assert not is_safe()
        assert is_safe()
    assert not is_safe()
    safe_loading()
    with safe_loading():
        assert is_safe()
    assert is_safe()
    with safe_loading(False):
        assert not is_safe()
    assert is_safe()


def test_an_error_ends_a_block(is_safe):
    with pytest.raises(ZeroDivisionError), safe_loading(), safe_loading():
        raise ZeroDivisionError
    assert not is_safe()


def test_a_switch_within_a_block_ends_with_it(is_safe):
    for outer in (True, False):
        with safe_loading(outer):
            safe_loading(not outer)
            assert is_safe() != outer
        assert not is_safe()
    safe_loading()
    with safe_loading():
        safe_loading(False)
        assert not is_safe()
    assert is_safe()


def test_one_object_holds_several_blocks(is_safe):
    guard = safe_loading()
    safe_loading(False)
    with guard:
        assert is_safe()
        with guard:
            assert is_safe()
        assert is_safe()
    assert not is_safe()
    with guard:
        assert is_safe()
    assert not is_safe()


def test_a_thread_does_not_end_the_block_of_another(is_safe):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with safe_loading():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    with safe_loading():
        thread.start()
        assert entered.wait(60)
    assert is_safe()
    leave.set()
    thread.join()
    assert not is_safe()


@pytest.mark.parametrize('as_block', [False, True])
def test_a_thread_that_switches_off_does_not_unprotect_the_block_of_another(as_block, is_safe):
    switched, leave = threading.Event(), threading.Event()

    def switch_off():
        request = safe_loading(False)
        if as_block:
            with request:
                switched.set()
                leave.wait(60)
        switched.set()

    thread = threading.Thread(target=switch_off)
    with safe_loading():
        thread.start()
        assert switched.wait(60)
        assert is_safe()
        with safe_loading(False):
            assert not is_safe()  # this thread's own wish
        assert is_safe()
    assert not is_safe()
    leave.set()
    thread.join()
    assert not is_safe()


def test_names_are_converted_once(file, tmp_path, monkeypatch):
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text('{"mine": "a.pth"}')
    seen = []
    monkeypatch.setattr(loading, '_converters', [lambda each: seen.append(1) or each])
    with safe_loading():
        assert CheckpointLoader.load_checkpoint('openmmlab://mine')['state_dict'].keys() == {'w'}
    assert seen == [1]


def test_the_result_of_a_conversion_is_checked(file, monkeypatch):
    monkeypatch.setattr(loading, '_converters', [lambda each: dict(state_dict=dict(w=1))])
    with safe_loading(), pytest.raises(CheckpointError, match="'w' in state_dict"):
        CheckpointLoader.load_checkpoint(file)


def test_a_block_of_a_thread_does_not_undo_the_switch_of_another(is_safe):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with safe_loading(False):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    safe_loading()
    thread.start()
    assert entered.wait(60)
    assert is_safe()
    leave.set()
    thread.join()
    assert is_safe()


def theirs(filename, map_location=None):
    return dict(meta=dict(cfg=1), theirs=filename)


def test_loaders_of_others_survive(file, is_safe):
    """Registered before and while it is on, under names of their own and in mmengine's place."""
    load = CheckpointLoader.load_checkpoint
    CheckpointLoader.register_scheme('before://', theirs)
    CheckpointLoader.register_scheme('pavi://', theirs, force=True)
    with safe_loading():
        assert load('before://a')['theirs'] == 'before://a'
        with pytest.raises(ValueError, match='not read safely'):
            load('pavi://a')
        with pytest.raises(KeyError, match='already registered'):
            CheckpointLoader.register_scheme('', theirs)
        CheckpointLoader.register_scheme('meanwhile://', theirs)
        CheckpointLoader.register_scheme('', theirs, force=True)
        assert load(file)['theirs'] == file  # what a program asks for it gets, at once
        with safe_loading():
            assert is_safe()  # and so do we
    for name in ('before://a', 'meanwhile://a', 'pavi://a', file):
        assert load(name)['theirs'] == name
    with safe_loading():
        assert is_safe()
    assert load(file)['theirs'] == file


def test_mmengine_logs_what_loads(file, caplog):
    seen = []
    with pytest.MonkeyPatch.context() as patch, safe_loading():
        patch.setattr('mmengine.runner.checkpoint.print_log', lambda text, **_: seen.append(text))
        CheckpointLoader.load_checkpoint(file)
    assert seen == [f'Loads checkpoint by local backend from path: {file}']
