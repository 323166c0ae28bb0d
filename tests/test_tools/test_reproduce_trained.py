"""tools/reproduce.py where it trains: tables 1 and 2, and the transfer check."""

import json
import runpy
import shutil
import sys
from concurrent.futures import Future

import pytest
from mmengine.config import Config

from projects.paper_tables import trainings, transfer


class Inline:
    """Workers that are no processes, so that the test's changes reach them."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_):
        pass


@pytest.fixture
def tiny(monkeypatch):
    """Few images, few iterations, no processes."""
    monkeypatch.setattr(trainings, 'SHAPES', dict(train=16, val=4))
    monkeypatch.setattr(transfer, 'SHAPES', dict(train=16, val=4))
    monkeypatch.setattr(trainings, 'start_workers', lambda small: Inline())
    monkeypatch.setattr(transfer, 'EPOCHS', 1)
    read = Config.fromfile

    def read_tiny(file, *args, **kwargs):
        cfg = read(file, *args, **kwargs)
        if str(file).endswith('_small.py'):
            cfg.train_cfg.update(max_iters=4, val_interval=4)
            for hook in cfg.custom_hooks:
                if hook.type == 'DeepTrainingHook':
                    hook.end = 2
            if cfg.default_hooks.checkpoint:
                cfg.default_hooks.checkpoint.interval = 4
            cfg.train_dataloader.batch_size = 8
        if str(file).endswith('_shapes.py'):
            for loader in (cfg.train_dataloader, cfg.val_dataloader):
                loader.dataset.indices = 8
                loader.update(num_workers=0, persistent_workers=False)
        return cfg

    monkeypatch.setattr(Config, 'fromfile', staticmethod(read_tiny))


def test_table2(run_tool, tiny, tmp_path):
    code, _, _ = run_tool('reproduce.py', 'table2', '--small', '--seeds', 3, 4, '--out', tmp_path)
    assert code == 0
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ['table2_small.json', 'table2_small.md', 'table2_small.png']
    runs = json.loads((tmp_path / 'table2_small.json').read_text())['runs']
    columns = ['none', 'before activation', 'after activation']
    assert [(r['seed'], r['variant']['name']) for r in runs] == [
        (seed, column) for seed in (3, 4) for column in columns
    ]
    table = (tmp_path / 'table2_small.md').read_text()
    for column in columns:
        mean = sum(r['top1'] for r in runs if r['variant']['name'] == column) / 2
        assert f'| {mean:.2f} ± ' in table
    # The same seed gives the same net: the figures are those of trainings, not of the clock.
    code, _, _ = run_tool('reproduce.py', 'table2', '--small', '--seeds', 3, '--out', tmp_path)
    again = json.loads((tmp_path / 'table2_small.json').read_text())['runs']
    assert [r['top1'] for r in again] == [r['top1'] for r in runs[:3]]


def test_nothing_half_written(run_tool, tiny, monkeypatch, tmp_path):
    """An interruption after the first training leaves no file."""

    def stop(variant, seed, cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainings, 'train', stop)
    code, _, error = run_tool('reproduce.py', 'table1', '--small', '--out', tmp_path / 'out')
    assert code == 130
    assert error.endswith('interrupted; nothing is written\n')
    assert not [*(tmp_path / 'out').iterdir()]


def test_full_trainings_are_not_done_again(run_tool, tiny, monkeypatch, tmp_path):
    """A result that is kept is reported; what is missing is trained."""
    monkeypatch.setattr(trainings, 'check_imagenet', lambda: None)
    for name in ('none', 'before_activation', 'after_activation'):
        kept = tmp_path / f'table2/vanillanet-6_{name}_0/result.json'
        kept.parent.mkdir(parents=True)
        kept.write_text(json.dumps(dict(top1=12.5, cpu_seconds=1.0)))
    code, _, _ = run_tool('reproduce.py', 'table2', '--seeds', 0, '--out', tmp_path)
    assert code == 0
    assert '| VanillaNet-6 | 12.50 | 12.50 | 12.50 |' in (tmp_path / 'table2.md').read_text()


@pytest.mark.slow
def test_transfer(run_tool, tiny, tmp_path):
    code, out, error = run_tool('reproduce.py', 'transfer', '--seeds', 0, '--out', tmp_path)
    assert code == 0, error
    assert 'Pre-training changes box AP by' in out
    runs = json.loads((tmp_path / 'transfer_small.json').read_text())['runs']
    assert [run['way'] for run in runs] == ['from scratch', 'pre-trained']
    assert [run['top1'] is None for run in runs] == [True, False]


def test_no_imagenet(run_tool, tmp_path):
    code, _, error = run_tool('reproduce.py', 'table1', '--out', tmp_path / 'out')
    assert code == 2
    assert "there is no ImageNet in 'data/imagenet/'" in error
    assert len(error.strip().splitlines()) == 1
    assert not [*(tmp_path / 'out').iterdir()]


def test_small_is_not_for_speed(run_tool):
    code, _, error = run_tool('reproduce.py', 'table3', '--small')
    assert code == 2
    assert '--small is for table1, table2 and transfer' in error


def test_without_a_checkout(monkeypatch, capsys, tmp_path):
    """A copy of the tool without the project names the missing folder."""
    alone = shutil.copy('tools/reproduce.py', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', 'table1', '--out', str(tmp_path / 'out')])
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(alone, run_name='__main__')
    (line,) = capsys.readouterr().err.splitlines()
    assert 'projects/paper_tables' in line
    assert 'checkout' in line
    assert not (tmp_path / 'out').exists()
