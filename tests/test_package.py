"""What importing the package does, in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(code):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_missing_mmcv_gets_one_sentence():
    done = run("import sys; sys.modules['mmcv'] = None; import mmvanilla")
    last = done.stderr.splitlines()[-1]
    assert last.startswith('ImportError: mmvanilla needs mmcv 2.1.0: install `mmvanilla[lite]`')


def test_import_alone_registers_everything():
    code = """
import mmvanilla
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
assert MODELS.get('VanillaNet') is mmvanilla.VanillaNet
assert HOOKS.get('DeepTrainingHook') and HOOKS.get('ReseedHook')
assert OPTIM_WRAPPER_CONSTRUCTORS.get('VanillaNetLayerDecayConstructor')
import sys
assert not {'mmdet', 'mmseg', 'mmpretrain'} & set(sys.modules), 'only what is asked for is imported'
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
