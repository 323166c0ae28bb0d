"""Spawned workers read mmdet's data sets with any main module; other processes import nothing."""

import os
import subprocess
import sys
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import mmcv.ops
import pytest

import mmvanilla.mmcv_ops
from mmvanilla import make_shapes
from mmvanilla.installed import mmcv_is_compiled

ROOT = Path(__file__).parents[2]

# Without a start method of its own the loader uses that of the process (mp_cfg). Another process
# prints its modules.
MAIN = """
import sys


def main(root, method):
    import multiprocessing
    import mmvanilla
    from mmdet.datasets import CocoDataset
    from mmengine.registry import init_default_scope
    from torch.utils.data import DataLoader

    multiprocessing.set_start_method('spawn', force=True)
    init_default_scope('mmdet')
    dataset = CocoDataset(
        data_root=root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[dict(type='LoadImageFromFile')],
    )
    context = None if method == 'None' else method
    loader = DataLoader(dataset, None, num_workers=1, multiprocessing_context=context)
    print(len(list(loader)), 'images')
    program = 'import sys; print("modules", *sys.modules)'
    process = multiprocessing.get_context(context).Process(target=exec, args=(program,))
    process.start()
    process.join()


"""
SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ('spawn', 'forkserver')]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return f'{make_shapes(root, train=2, val=1, size=64) / "coco"}/'


def run(program, data, method):
    """Check that workers read the data, and that other processes import nothing of ours."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *program, data, str(method)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '2 images' in done.stdout
    (modules,) = [line.split() for line in done.stdout.splitlines() if line.startswith('modules')]
    assert not {'torch', 'mmcv', 'mmvanilla'} & set(modules)


@pytest.mark.parametrize('method', [None, *SLOW])
def test_a_script_that_imports_the_package_in_main(method, data, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(f"{MAIN}if __name__ == '__main__':\n    main(*sys.argv[1:])\n")
    run([script], data, method)


@pytest.mark.parametrize('method', SLOW)
def test_a_program_without_a_main_module(method, data):
    """As in a notebook."""
    run(['-c', f'{MAIN}main(*sys.argv[1:])'], data, method)


def test_installing_again_changes_nothing():
    before = dict(ForkingPickler._extra_reducers)
    mmvanilla.mmcv_ops.install()
    assert before == ForkingPickler._extra_reducers


@pytest.mark.skipif(mmcv_is_compiled(), reason='mmcv is compiled')
def test_a_compiled_mmcv_needs_nothing(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(ForkingPickler, 'register', lambda *args: found.append(args))
    monkeypatch.setattr(mmcv, '_ext', None, raising=False)
    (tmp_path / '_ext.py').touch()
    with monkeypatch.context() as patch:
        patch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
        patch.delitem(sys.modules, 'mmcv._ext')
        import_module('mmcv._ext')
        assert not found
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    import_module('mmcv._ext')
    assert found
