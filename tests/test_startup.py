"""Which libraries a command line or an import waits for, in a fresh interpreter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py'))
# Each takes from a tenth of a second to seconds.
SLOW = {
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'cv2',
    'numpy',
    'matplotlib',
    'rich',
    'supervision',
}
TOOL = """
import runpy, sys
sys.argv = {argv!r}
try:
    runpy.run_{how}({what!r}, run_name='__main__')
finally:
    print(*sys.modules)
"""


def run(code, folder=ROOT):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def imported(done):
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_no_library(tool):
    done = run(TOOL.format(argv=[tool, '--help'], how='path', what=f'tools/{tool}'))
    assert done.returncode == 0, done.stderr
    assert re.search('usage: .*--help|-h', done.stdout)
    assert not imported(done) & SLOW


@pytest.mark.parametrize(
    'arguments',
    [
        ['train.py', 'none.py'],
        ['train.py', 'configs/mask_rcnn_vanillanet13.py', '--colour'],
        ['train.py', 'configs/mask_rcnn_vanillanet13.py', '--cfg-options', 'arch'],
        ['test.py', 'none.py', 'a.pth'],
        ['predict.py', 'configs/mask_rcnn_vanillanet13.py', 'a.pth'],
        ['deploy.py', 'configs/mask_rcnn_vanillanet13.py', 'a.pth'],
        ['fps.py', '--repeat', 'often'],
        ['check_data.py', 'none.py'],
    ],
)
def test_a_mistake_in_the_arguments_is_found_before_libraries_are_imported(arguments):
    done = run(TOOL.format(argv=arguments, how='path', what=f'tools/{arguments[0]}'))
    assert done.returncode == 2, done.stderr
    assert f'{arguments[0]}: error: ' in done.stderr
    assert not imported(done) & SLOW


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help']])
def test_the_command_waits_for_no_library(arguments):
    done = run(TOOL.format(argv=['mmvanilla', *arguments], how='module', what='mmvanilla'))
    assert done.returncode == 0, done.stderr
    assert not imported(done) & SLOW


def test_import_adds_little_to_what_mmengine_imports():
    code = 'import sys, mmengine.runner; alone = {*sys.modules}; import mmvanilla'
    modules = imported(run(f'{code}; print(*sys.modules.keys() - alone)'))
    assert 'mmvanilla.engine' in modules
    added = {name.split('.')[0] for name in modules}
    assert not added & {'torchvision', 'sympy', 'scipy', 'pandas', 'onnx', 'openvino', 'nncf'}
    assert not {'torch._dynamo', 'matplotlib.pyplot'} & modules


REGISTERED = """
from mmengine.registry import HOOKS, MODELS
import mmvanilla
assert MODELS.get('VanillaNet') is mmvanilla.VanillaNet
assert HOOKS.get('DeepTrainingHook') and HOOKS.get('ShowHook')
"""


@pytest.mark.parametrize(
    'first',
    [
        'import mmvanilla, mmcv.ops',
        'import mmvanilla\nfrom mmdet.apis import init_detector',
        'import mmengine.runner\nimport mmvanilla',
        'import mmcv\nimport mmvanilla',
        'from mmvanilla.models.vanillanet import VanillaNet',
        'from mmvanilla.deploy.load import build_model',
        'from importlib.util import find_spec\nimport mmvanilla\nfind_spec("mmengine")',
    ],
)
def test_everything_is_registered_whatever_is_imported_first(first, fresh_python):
    done = fresh_python('-c', first + REGISTERED)
    assert done.returncode == 0, done.stderr
