"""SIGTERM and SIGINT during a training and after it."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from mmvanilla.engine.signals import StartWorker, held_signals, noted_signals

HANDLERS = signal.SIG_DFL, signal.default_int_handler


@pytest.fixture(autouse=True)
def python_s_own_handlers():
    """Set Python's handlers; a background process starts with SIGINT ignored."""
    before = handlers()
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), HANDLERS, strict=True):
        signal.signal(number, handler)
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


def handlers():
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


def fail_after_ctrl_c():
    signal.raise_signal(signal.SIGINT)
    raise FloatingPointError('the loss is not finite')


def test_ctrl_c_works_again_after_a_training_that_ended_by_an_exception():
    with pytest.raises(FloatingPointError), noted_signals() as active:
        fail_after_ctrl_c()
    assert active.received == signal.SIGINT
    assert handlers() == HANDLERS
    assert noted_signals.active is None
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def square(number):
    return number**2


def test_a_metric_that_evaluates_in_a_pool_ends_within_a_training():
    """As VOCMetric, and CocoMetric with use_mp_eval, do in every validation."""
    with noted_signals():
        pool = multiprocessing.get_context('fork').Pool(2)
        assert pool.map(square, [2, 3]) == [4, 9]
        ending = threading.Thread(target=pool.terminate, daemon=True)
        ending.start()
        ending.join(60)
        ended = not ending.is_alive()
        for process in multiprocessing.active_children():
            process.kill()
        ending.join()
        assert ended
        assert noted_signals.active is not None


def test_a_child_forked_in_a_training_ends_by_sigterm():
    with noted_signals():
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=[60])
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(10)
    assert child.exitcode == -signal.SIGTERM


def test_a_child_that_is_signalled_as_it_is_forked_ends():
    """As the idle processes of a pool, which a metric ends as soon as its work is done."""
    with noted_signals():
        for _ in range(50):
            child = multiprocessing.get_context('fork').Process(target=time.sleep, args=[60])
            child.start()
            os.kill(child.pid, signal.SIGTERM)
            child.join(10)
            survived = child.is_alive()
            child.kill()
            assert not survived
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def wait(connection):
    StartWorker()(0)
    connection.send('ready')
    time.sleep(60)


def test_a_loading_worker_ends_by_its_parent_only():
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    with noted_signals():
        child = context.Process(target=wait, args=[theirs])
        child.start()
        assert ours.recv() == 'ready'
        for number in (signal.SIGINT, signal.SIGTERM):  # from elsewhere, as Slurm's to a job
            os.system(f'kill -{int(number)} {child.pid}')
        time.sleep(0.3)
        assert child.is_alive()
        child.terminate()
        child.join(10)
    assert child.exitcode == 0


def wait_elsewhere(connection, missing):
    for name in missing:
        delattr(signal, name)
    with held_signals():
        wait(connection)


@pytest.mark.parametrize(
    'missing',
    [
        pytest.param(['sigwaitinfo'], id='macOS'),
        pytest.param(['sigwaitinfo', 'pthread_sigmask'], id='Windows'),
    ],
)
def test_a_loading_worker_ignores_ctrl_c_on_other_systems(missing):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    child = context.Process(target=wait_elsewhere, args=[theirs, missing])
    child.start()
    assert ours.recv() == 'ready'
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.3)
    assert child.is_alive()
    child.terminate()
    child.join(10)
    child.kill()
    assert child.exitcode == -signal.SIGTERM
