"""Shared fixtures. Importing the package first allows mmdet and mmseg in any order."""

import copy
import functools
import gc
import inspect
import json
import logging
import multiprocessing
import os
import pty
import runpy
import shutil
import subprocess
import sys
import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import collect_env
from mmengine.visualization import Visualizer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

import mmvanilla

ROOT = Path(__file__).parents[1]
KINDS = {
    'retinanet': 'configs/retinanet_vanillanet13_shapes.py',
    'mask_rcnn': 'configs/mask_rcnn_vanillanet13_shapes.py',
    'upernet': 'configs/upernet_vanillanet13_shapes.py',
    'fcn': 'configs/upernet_vanillanet13_shapes.py',  # with one head, which is exported sooner
}


def pytest_addoption(parser):
    parser.addoption('--share', action='store_true', help="run today's seventh of the slow tests")


def pytest_collection_modifyitems(config, items):
    """Choose the slow tests of this weekday and of the files in the last commit.

    The weekday follows from the name of the test, so each week runs all of them. The longest
    tests come first, so that the workers finish together.
    """
    items.sort(key=lambda item: 'test_overfit' not in item.nodeid)
    if not config.getoption('share'):
        return
    command = ['git', 'diff', '--name-only', '--relative', 'HEAD^']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    changed = set(done.stdout.splitlines())  # nothing where there is no history
    today = date.today().weekday()
    share, others = [], []
    for item in items:
        chosen = zlib.crc32(item.nodeid.encode()) % 7 == today
        touched = is_touched(item.nodeid.partition('::')[0], changed)
        whole = item.get_closest_marker('slow') is None
        (share if chosen or touched or whole else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = share


def is_touched(test, changed):
    """Return whether a test file, or the code it tests, has changed.

    Tests of ``mmvanilla/PACKAGE`` are in ``tests/test_PACKAGE``; tests of ``tools/NAME.py`` have
    NAME in their file name.
    """
    folder, _, name = test.rpartition('/')
    packages = {f'tests/test_{path.split("/")[1]}' for path in changed if path[:10] == 'mmvanilla/'}
    tools = [Path(path).stem for path in changed if path.startswith('tools/')]
    named = folder == 'tests/test_tools' and any(tool in name for tool in tools)
    return test in changed or folder in packages or named


@pytest.fixture(scope='module', autouse=True)
def freeze_imports():
    """Keep imported modules out of later garbage collections."""
    gc.collect()
    gc.freeze()


def no_metafile(package_path, cfg_path):
    raise ValueError(f'no metafile for {cfg_path}')


@pytest.fixture(scope='session', autouse=True)
def quick_mmengine():
    """Skip work that mmengine repeats for each runner, config and data set."""
    with pytest.MonkeyPatch.context() as patch:
        # A data set collects garbage after serializing, a runner asks the compiler its version.
        patch.setattr('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=lambda: None))
        patch.setattr('mmengine.runner.runner.collect_env', functools.cache(collect_env))
        # The base of a config is looked up in all metafiles of its library before its own path.
        for module in ('config.utils', 'hub.hub'):
            patch.setattr(f'mmengine.{module}._get_cfg_metainfo', no_metafile, raising=False)
        # Formatting a config takes longer than a short training.
        format_code = 'mmengine.config.config.FormatCode'
        patch.setattr(format_code, lambda text, **_: (text, False), raising=False)
        yield


@pytest.fixture(scope='session')
def end_workers():
    """End the workers of data loaders after each training.

    Garbage collection removes their queues first, and then waits 5 s for each worker.
    """
    started, begin, train = weakref.WeakSet(), DataLoader.__iter__, Runner.train

    def noted(self):
        iterator = begin(self)
        started.add(iterator)
        return iterator

    def end():
        for iterator in list(started):
            if hasattr(iterator, '__del__'):  # it has workers
                iterator.__del__()

    def train_and_end(self):
        try:
            return train(self)
        finally:
            end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataLoader, '__iter__', noted)
        patch.setattr(Runner, 'train', train_and_end)
        yield end


@pytest.fixture(autouse=True)
def workers_that_end(end_workers):
    """End the workers of each test."""
    yield
    end_workers()


# Levels, anchors and proposals of a COCO detector; the shapes need fewer.
RATIOS = [0.5, 1.0, 2.0]
PROPOSALS = dict(nms_pre=500, max_per_img=200)
HEADS = dict(
    mask_rcnn={
        'model.neck.num_outs': 5,
        'model.rpn_head.anchor_generator': dict(
            scales=[4], ratios=RATIOS, strides=[4, 8, 16, 32, 64]
        ),
        'model.train_cfg.rpn_proposal': PROPOSALS,
        'model.test_cfg.rpn': PROPOSALS,
    },
    retinanet={
        'model.neck.num_outs': 5,
        'model.bbox_head.anchor_generator': dict(
            octave_base_scale=2, ratios=RATIOS, strides=[8, 16, 32, 64, 128]
        ),
    },
)


@pytest.fixture(autouse=True)
def mmengines_loading():
    """Load as mmengine does; tools in earlier tests switched safe loading on."""
    with mmvanilla.safe_loading(False):
        yield


@pytest.fixture
def trained():
    """Give the batch norms of a model random statistics and weights, as after training."""

    def randomize(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                size = module.running_mean.shape
                module.running_mean.copy_(torch.randn(size, generator=generator) / 2)
                module.running_var.copy_(torch.rand(size, generator=generator) * 1.5 + 0.5)
                module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(size, generator=generator) / 4)
                module.num_batches_tracked.fill_(100)
        return model

    return randomize


@pytest.fixture(scope='session')
def small_config():
    """Read the config of a kind of model and make it narrow."""
    from_file = functools.cache(Config.fromfile)

    def read(kind, ada_pool=False, **options):
        cfg = copy.deepcopy(from_file(ROOT / KINDS[kind]))
        for part in ('train', 'val', 'test'):
            cfg[f'{part}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg.model.backbone.arch = dict(
            dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2], ada_pool=ada_pool
        )
        widths = [16, 24, 32, 32]
        if kind in ('upernet', 'fcn'):
            cfg.model.decode_head.in_channels = widths
            cfg.model.auxiliary_head.in_channels = widths[2]
            if kind == 'fcn':
                cfg.model.decode_head = cfg.model.pop('auxiliary_head')
        else:
            cfg.model.neck.in_channels = widths[-len(cfg.model.neck.in_channels) :]
            cfg.merge_from_dict(HEADS[kind])
        cfg.merge_from_dict({f'model.{name}': value for name, value in options.items()})
        return cfg

    return read


@pytest.fixture
def build(trained, small_config):
    """Build a small model as if trained, with many boxes and masks inside the image."""

    def build_model(kind, ada_pool=False, **options):
        cfg = small_config(kind, ada_pool, **options)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = trained(MODELS.build(cfg.model)).eval()
        for name, module in model.named_modules():
            if not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            if name.endswith('_cls'):
                # RetinaNet's scores would all be 1, any box as good as another.
                nn.init.normal_(module.weight, std=0.005 if 'retina' in name else 0.03)
                nn.init.zeros_(module.bias)
            elif name.endswith('conv_logits'):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.ones_(module.bias)
            elif name.endswith('_reg'):
                nn.init.normal_(module.weight, std=0.002)  # boxes near their anchors
        return model

    return build_model


@pytest.fixture(
    params=[
        'cpu',
        pytest.param(
            'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
        ),
    ]
)
def device(request):
    return torch.device(request.param)


@pytest.fixture
def exporting():
    """Skip the test if torch or a package for exporting is missing or too old."""
    needed = 'prefer_deferred_runtime_asserts_over_guards'
    if needed not in inspect.signature(torch.export.export).parameters:
        pytest.skip(f'torch.export.export of torch {torch.__version__} has no {needed}')
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
        pytest.importorskip(package)


@pytest.fixture
def needs():
    """Skip the test if this PyTorch fails in a call, with its error as the reason."""

    def try_it(call):
        try:
            call()
        except RuntimeError as error:
            pytest.skip(f'torch {torch.__version__} says: {str(error).splitlines()[0]}')

    return try_it


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def forked(monkeypatch, one_thread):
    """Fork the processes that measure, so that they start at once and keep a test's patches.

    OpenMP does not survive a fork with more than one thread.
    """
    from mmvanilla.benchmark import processes

    monkeypatch.setattr(processes, 'CONTEXT', multiprocessing.get_context('fork'))
    monkeypatch.setattr(processes, 'PAUSE', 0)
    monkeypatch.setattr(processes, 'disturbances', lambda before: [])


@pytest.fixture
def run_tool(capsys, monkeypatch):
    """Run a tool in this process; return its exit code, output and log, and stderr."""

    def run(tool, *arguments, folder=ROOT):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's logger outlives a test
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        # Hooks take the visualizer made last; a logger writes to the stdout it began with.
        for manager in (Visualizer, *Visualizer.__subclasses__(), MMLogger):
            monkeypatch.setattr(manager, '_instance_dict', OrderedDict())
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def tool_output(run_tool):
    """Run a tool that must succeed; return its output and log."""

    def run(tool, *arguments):
        code, out, error = run_tool(tool, *arguments)
        assert code == 0, out[-2000:] + error[-2000:]
        return out

    return run


@pytest.fixture
def tool_error(run_tool):
    """Run a tool that must refuse its arguments; return the error, a single line."""

    def run(tool, *arguments):
        code, _, error = run_tool(tool, *arguments)
        assert code == 2
        assert 'Traceback' not in error
        (line,) = [line for line in error.splitlines() if f'{tool}: error: ' in line]
        return line

    return run


@pytest.fixture
def run_test(tool_output, tmp_path):
    """Run tools/test.py, which must succeed; return its output."""

    def run(config, checkpoint, data, *options, work='work'):
        common = ('--data-root', data, '--work-dir', tmp_path / work)
        return tool_output('test.py', config, checkpoint, *common, *options)

    return run


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    """Write a folder once for all workers of pytest-xdist."""
    root = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        root = root.parent

    def make(name, write):
        folder = root / name
        with FileLock(f'{folder}.lock'):
            if not (folder / 'complete').exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write(folder)
                (folder / 'complete').touch()
        return folder

    return make


@pytest.fixture
def watch(monkeypatch):
    """Make stdout or stderr a terminal or a pipe; yield a list that gets its output."""

    @contextmanager
    def watching(kind='terminal', stream='stdout'):
        reader, writer = pty.openpty() if kind == 'terminal' else os.pipe()
        seen, read = [], bytearray()

        def drain():
            while not read.endswith(b'\0'):  # workers may keep the pipe open
                read.extend(os.read(reader, 2**16))

        thread = threading.Thread(target=drain)
        thread.start()
        with monkeypatch.context() as patch, os.fdopen(writer, 'w') as file:
            patch.setattr(sys, stream, file)
            patch.setenv('COLUMNS', '100')
            patch.setenv('TERM', 'xterm')
            try:
                yield seen
                assert getattr(sys, stream) is file
            finally:
                file.write('\0')
                file.flush()
                thread.join()
                os.close(reader)
                seen.append(read[:-1].decode())

    return watching


@pytest.fixture
def files(build, small_config, tmp_path):
    """Write config and checkpoint of a small model; return the model and both paths."""

    def write(kind, deploy=False, act_learn=1.0, **options):
        cfg = small_config(kind, **options)
        cfg.model.backbone.deploy = deploy
        cfg.dump(tmp_path / 'config.py')
        model = build(kind, **options)
        model.backbone.act_learn = act_learn
        state = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(dict(state_dict=state, meta={}), tmp_path / 'trained.pth')
        return model, tmp_path / 'config.py', tmp_path / 'trained.pth'

    return write


@pytest.fixture(scope='session')
def fresh_python(tmp_path_factory):
    """Run a program where nothing of OpenMMLab has been imported yet, see fresh_python.py."""
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tests/fresh_python.py')]
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    outputs = [tmp_path_factory.mktemp('fresh') / name for name in ('out', 'error')]
    started = []

    def run(*arguments, folder=ROOT, **variables):
        if not started:
            started.append(subprocess.Popen(command, env=environment, **pipes))
        (server,) = started
        request = dict(
            arguments=list(map(str, arguments)),
            environment={**os.environ, **variables},
            folder=str(folder),
            outputs=list(map(str, outputs)),
        )
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        texts = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess(arguments, code, *texts)

    yield run
    for server in started:
        server.stdin.close()
        server.wait()
