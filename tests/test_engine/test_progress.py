"""The progress bar on a terminal, also when training ends early."""

import re
import signal

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvanilla.engine import StopOnSignalHook, progress_bar

CONTROL = re.compile(r'\x1b\[[\d;?]*[a-zA-Z]')  # of the cursor and of colours
BAR = re.compile(r'^(epoch \d/\d|train|val|test) +[━╸╺ ]+ +(\d+)/(\d+) +(\S+) *$', re.MULTILINE)
HIDE = '\x1b[?25l'
LOSSES = ['loss 6.7500', 'loss_one 4.5000', 'loss_half 2.2500']  # means over two epochs


class Model(BaseModel):
    """A model with losses 1, 2, 3, ... and half of them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.calls = 0

    def forward(self, inputs, mode):
        if mode != 'loss':
            return [None]
        self.calls += 1
        loss = self.layer(inputs).sum() * 0 + self.calls
        return dict(loss_one=loss, loss_half=loss / 2)


class Count(BaseMetric):
    default_prefix = 'count'

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        return dict(batches=len(results))


class Talking(list):
    """A data set that prints in the loading worker."""

    def __getitem__(self, index):
        print(f'loaded {index}', flush=True)
        return super().__getitem__(index)


class Raise(Hook):
    """Do something in the third iteration."""

    def __init__(self, do):
        self.do = do

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 2:
            self.do()


@pytest.fixture
def make(tmp_path):
    """Make a training of four batches an epoch, validated or tested on two."""

    def build(loop, kind=list, **options):
        data = kind(dict(inputs=torch.rand(2)) for _ in range(8))
        test = DataLoader(data, 4), dict(), Evaluator(Count())
        tests = {
            f'{part}_{name}': value
            for part in ('val', 'test')
            for name, value in zip(('dataloader', 'cfg', 'evaluator'), test, strict=True)
        }
        return Runner(
            Model(),
            str(tmp_path / 'work'),
            train_dataloader=DataLoader(data, 2, num_workers=kind is Talking),
            train_cfg=loop,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            experiment_name=f'{tmp_path.name}{len(list(tmp_path.glob("work/*")))}',
            **tests,
            **options,
        )

    return build


def epochs(number, **options):
    return dict(type='ResumableEpochLoop', max_epochs=number, **options)


def plain(seen):
    """Return the output without control sequences."""
    return CONTROL.sub('', seen[0]).replace('\r\n', '\n').replace('\r', '\n')


def bars(seen):
    """Return name, iteration, number of iterations and remaining time of each bar."""
    return BAR.findall(plain(seen))


@pytest.mark.parametrize(('kind', 'mode'), [('terminal', 'auto'), ('pipe', 'rich')])
def test_a_bar(kind, mode, make, watch, tmp_path):
    with watch(kind) as seen:
        runner = make(epochs(2))
        with progress_bar(runner, mode):
            runner.train()
    assert bars(seen)[-1] == ('epoch 2/2', '8', '8', '0:00:00')
    assert ('val', '2', '2', '0:00:00') in bars(seen)
    last = plain(seen).rstrip().splitlines()[-1]
    assert last.split('  ') == LOSSES
    assert 'Epoch(train)' not in seen[0]
    assert 'Epoch(val) [2]' in seen[0]  # results appear on a terminal as well
    assert HIDE not in seen[0]
    (log,) = tmp_path.glob('work/*/*.log')
    assert log.read_text().count('Epoch(train)') == 8


@pytest.mark.parametrize(
    ('kind', 'mode', 'term'),
    [('terminal', 'plain', 'xterm'), ('pipe', 'auto', 'xterm'), ('terminal', 'auto', 'dumb')],
)
def test_lines(kind, mode, term, make, watch, monkeypatch):
    with watch(kind) as seen:
        monkeypatch.setenv('TERM', term)
        monkeypatch.setenv('FORCE_COLOR', '1')  # rich then assumes a terminal
        runner = make(epochs(2))
        with progress_bar(runner, mode):
            runner.train()
    assert not bars(seen)
    assert seen[0].count('Epoch(train)') == 8


def test_another_process_shows_none(make, watch, monkeypatch):
    monkeypatch.setattr('mmvanilla.engine.hooks.progress.is_main_process', lambda: False)
    with watch() as seen:
        runner = make(epochs(1))
        with progress_bar(runner):
            runner.train()
    assert not bars(seen)


def test_iterations(make, watch):
    with watch() as seen:
        runner = make(dict(by_epoch=False, max_iters=5, val_interval=2))
        with progress_bar(runner):
            runner.train()
    assert bars(seen)[-1][:3] == ('train', '5', '5')
    assert ('val', '2', '2') in [bar[:3] for bar in bars(seen)]


def test_a_resume(make, watch, tmp_path):
    make(epochs(1)).train()
    with watch() as seen:
        runner = make(epochs(3), resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        with progress_bar(runner):
            runner.train()
    assert bars(seen)[0][:3] == ('epoch 2/3', '5', '12')
    assert bars(seen)[-1][:3] == ('epoch 3/3', '12', '12')


def test_a_test(make, watch):
    with watch() as seen:
        runner = make(epochs(1))
        with progress_bar(runner):
            runner.test()
    assert bars(seen)[-1][:3] == ('test', '2', '2')
    assert 'Epoch(test) [2/2]' in seen[0]


def test_a_narrow_terminal_without_colours(make, watch, monkeypatch):
    with watch() as seen:
        monkeypatch.setenv('COLUMNS', '30')
        monkeypatch.setenv('NO_COLOR', '1')
        runner = make(epochs(2))
        with progress_bar(runner):
            runner.train()
    *_, bar, losses, rest = plain(seen).rstrip().splitlines()
    assert BAR.match(bar)
    assert max(map(len, (bar, losses, rest))) <= 30
    assert re.split(r' {2,}', f'{losses}  {rest}') == LOSSES
    assert not re.search(r'\x1b\[(\d;)*3\d', seen[0])


def test_workers_that_print(make, watch):
    with watch() as seen:
        runner = make(epochs(2), Talking)
        with progress_bar(runner):
            runner.train()
    assert bars(seen)[-1][:3] == ('epoch 2/2', '8', '8')
    assert {f'loaded {i}' for i in range(8)} <= set(plain(seen).splitlines())


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError, SystemExit])
def test_a_training_that_ends_early(error, make, watch):
    def end():
        if error is not SystemExit:
            raise error
        signal.raise_signal(signal.SIGTERM)

    with watch() as seen:
        runner = make(epochs(2), custom_hooks=[Raise(end), StopOnSignalHook()])
        with pytest.raises(error), progress_bar(runner):
            runner.train()
        runner.logger.info('Epoch(train) is logged again')
    assert HIDE not in seen[0]
    assert bars(seen)[-1][1] == ('3' if error is SystemExit else '2')
    assert ('SIGTERM: ' in seen[0]) == (error is SystemExit)
    assert plain(seen).endswith('Epoch(train) is logged again\n')
