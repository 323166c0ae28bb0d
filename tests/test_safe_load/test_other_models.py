"""A process that imports mmvanilla loads other models as mmengine alone does."""

import inspect
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvanilla.installed import version

# Stand-ins for storage clients; they read from the folder.
SCRIPT = """
import json, os, re, shutil, sys, types
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint

folder, names = sys.argv[1], sys.argv[2:]

class Client:
    def __init__(self, *args, **kwargs):
        pass

    def Get(self, path):
        with open(os.path.join(folder, path.split('://')[1]), 'rb') as file:
            return memoryview(file.read())

class Model:
    def __init__(self, name):
        self.name = name

    def download(self, file):
        shutil.copy(os.path.join(folder, self.name), file)

sys.modules['petrel_client'] = types.ModuleType('petrel_client')
sys.modules['petrel_client.client'] = types.ModuleType('petrel_client.client')
sys.modules['petrel_client'].client = sys.modules['petrel_client.client']
sys.modules['petrel_client.client'].Client = Client
sys.modules['pavi'] = types.ModuleType('pavi')
sys.modules['pavi'].modelcloud = types.SimpleNamespace(get=Model)

found = {}
for name in names:
    shutil.rmtree(os.path.join(folder, 'hub'), ignore_errors=True)
    torch.hub.set_dir(os.path.join(folder, 'hub'))
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    try:
        checkpoint = load_checkpoint(model, name)
        loaded = repr((checkpoint, model.weight, model.bias))
        found[name] = re.sub(' at 0x[0-9a-f]+', '', loaded)
    except Exception as error:
        found[name] = f'{type(error).__name__}: {error}'
schemes = CheckpointLoader._schemes.items()
loaders = [[prefix, loader.__module__, loader.__name__] for prefix, loader in schemes]
print(json.dumps([found, loaders]))
"""
# Modules that use the safe loader on their own.
USE = """
import mmvanilla
net = dict(arch=dict(dims=[4, 4], strides=[2]), out_indices=[0])
try:
    mmvanilla.VanillaNet(**net, init_cfg=dict(type='Pretrained', checkpoint='none')).init_weights()
except FileNotFoundError:
    mmvanilla.VanillaNet(**net).init_weights()
with mmvanilla.safe_loading():
    pass
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def names(tmp_path):
    """Write checkpoints, serve them, and return a name of each kind for each."""
    weights = dict(weight=torch.ones(1, 1), bias=torch.zeros(1))
    contents = {
        'plain': weights,
        'trained': dict(state_dict=weights, meta=dict(cfg='import this')),
        'history': dict(state_dict=weights, hub=HistoryBuffer([1.0], [1])),
        'published': dict(model={'stem1.0.weight': torch.ones(1)}),
    }
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    starts = [f'{tmp_path}/', f'http://127.0.0.1:{server.server_port}/', 'openmmlab://']
    starts += ['s3://', 'petrel://', 'x:s3://', 'pavi://']
    names = []
    for name, content in contents.items():
        torch.save(content, tmp_path / f'{name}.pth')
        names += [f'{start}{name}.pth' for start in starts]
    models = {f'{name}.pth': f'{name}.pth' for name in contents}
    (tmp_path / 'open_mmlab.json').write_text(json.dumps(models))
    yield [*names, f'{tmp_path}/none.pth', 'openmmlab://none']
    server.shutdown()
    server.server_close()


@pytest.fixture
def results(fresh_python, names, tmp_path):
    """Load all names after some code; return what is loaded, and the loaders."""

    def run(before, **variables):
        program = ('-c', before + SCRIPT, tmp_path, *names)
        done = fresh_python(*program, MMENGINE_HOME=str(tmp_path), **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize('trusting', [False, True])
def test_importing_changes_nothing(trusting, names, results):
    options = dict(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1') if trusting else {}
    alone = results('', **options)
    loaded = {name for name, result in alone[0].items() if 'Error' not in result}
    # A history is not a tensor: without trust only what comes over http may hold one.
    # As torch.load did before 2.6, and OneDL's mmengine does.
    trusts = inspect.signature(torch.load).parameters['weights_only'].default is False
    trusts |= version('onedl-mmengine') is not None
    assert len(loaded) == (4 * 7 if trusting or trusts else 3 * 7 + 1)
    found, loaders = results(USE, **options)
    assert loaders == alone[1]
    for name in names:
        assert found[name] == alone[0][name]
