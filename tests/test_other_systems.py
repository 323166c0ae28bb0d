"""The core works without what only POSIX systems have."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Hidden once the libraries, which have ways of their own on each system, are imported.
HIDE = """
import builtins, os, platform, shutil, signal, sys
import cv2, matplotlib.pyplot, mmengine.runner, numpy, torch, torchvision, yapf

HIDDEN = {'fcntl', 'grp', 'pty', 'pwd', 'resource', 'termios', 'tty'}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

for name in HIDDEN:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Blocker())
platform.system = lambda: 'Windows'

def hide(module, *names):
    for name in names:
        delattr(module, name)

hide(os, 'fork', 'forkpty', 'register_at_fork', 'killpg', 'setsid', 'getuid', 'geteuid')
hide(os, 'sysconf', 'sched_getaffinity', 'getloadavg', 'uname', 'statvfs')
hide(signal, 'pthread_sigmask', 'pthread_kill', 'sigwait', 'sigwaitinfo', 'SIGKILL', 'SIGHUP')

def refuse(call):
    def checked(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith('/proc'):
            raise FileNotFoundError(2, 'No such file or directory', os.fspath(path))
        return call(path, *args, **kwargs)
    return checked

def fail(error):
    def call(*args, **kwargs):
        raise error
    return call

def open_file(path, *args, open_file=refuse(os.open), **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, 'Permission denied', os.fspath(path))
    return open_file(path, *args, **kwargs)

builtins.open, os.open, os.stat = refuse(open), open_file, refuse(os.stat)
shutil._use_fd_functions = False  # Windows opens no folders
os.symlink = fail(OSError(1314, 'A required privilege is not held by the client'))
os.fsync = fail(OSError(9, 'Bad file descriptor'))  # of a file that is open for reading
"""

CORE = """
from pathlib import Path
import mmvanilla
from mmengine.config import Config
from mmvanilla.benchmark.machine import cpu_seconds, describe
from mmvanilla.deploy.load import build_model
from mmvanilla.deploy.predict import make_predictor
from mmvanilla.engine import build_runner

data = mmvanilla.make_shapes('data', train=4, val=2, size=64) / 'coco'
cfg = Config.fromfile(CONFIG)
cfg.work_dir = 'work'
for split in ('train', 'val', 'test'):
    cfg[f'{split}_dataloader'].num_workers = 0
    cfg[f'{split}_dataloader'].dataset.data_root = f'{data}/'
for split in ('val', 'test'):
    name = Path(cfg[f'{split}_evaluator'].ann_file).name
    cfg[f'{split}_evaluator'].ann_file = f'{data}/annotations/{name}'
cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval = 2, 2
cfg.custom_hooks[2].end = 2
build_runner(cfg, 'train').train()  # saves, logs, fuses the net and validates it
cfg.resume, cfg.load_from = True, 'work/iter_3.pth'
build_runner(cfg, 'train').train()

model = mmvanilla.fuse(build_model(cfg, 'work/iter_4.pth', 'cpu')[0])
torch.save(dict(state_dict=model.state_dict()), 'fused.pth')
cfg.model.backbone.deploy = True
(image, *_) = sorted((data / 'val2017').iterdir())
found = make_predictor(cfg, 'fused.pth')(str(image)).pred_instances
assert len(found.scores) == len(found.bboxes)
assert cpu_seconds().own > 0
assert describe()['processor']
print('all of it')
"""


def test_build_train_resume_fuse_save_load_predict(fresh_python, tmp_path):
    code = f'CONFIG = {str(ROOT / "tests/data/tiny_shapes.py")!r}\n{HIDE}{CORE}'
    done = fresh_python('-c', code, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == 'all of it'


@pytest.mark.skipif(not (ROOT / 'mmvanilla').is_dir(), reason='needs the package in the checkout')
def test_a_checkout_without_symbolic_links(fresh_python, tmp_path):
    shutil.copytree(
        ROOT / 'mmvanilla', tmp_path / 'mmvanilla', ignore=shutil.ignore_patterns('__pycache__')
    )
    for name in ('configs', 'tools'):
        (tmp_path / 'mmvanilla/.mim' / name).rename(tmp_path / name)
        (tmp_path / 'mmvanilla/.mim' / name).write_text(f'../../{name}')
    (empty := tmp_path / 'empty').mkdir()
    common = dict(folder=empty, PYTHONPATH=str(tmp_path))
    done = fresh_python('-m', 'mmvanilla', 'shapes', '--help', **common)
    assert done.returncode == 0, done.stderr
    code = (
        'import mmvanilla\nfrom mmengine.config import Config\n'
        "print(Config.fromfile('mmvanilla::retinanet_vanillanet13.py').filename)"
    )
    done = fresh_python('-c', code, **common)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path / 'configs'
