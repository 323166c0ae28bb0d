"""What importing the package does, in a fresh interpreter, and what the project says of itself."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import mmvanilla

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


def test_import_adds_its_own_names_to_the_registries_and_changes_none():
    code = """
import mmcv, mmengine.registry as registry
from mmengine.registry import Registry
import mmengine.hooks, mmengine.model, mmengine.optim, mmengine.runner, mmcv.cnn, mmcv.transforms
registries = {k: v for k, v in vars(registry).items() if isinstance(v, Registry)}
before = {k: dict(v.module_dict) for k, v in registries.items()}
import mmvanilla
for name, found in registries.items():
    for key, value in before[name].items():
        assert found.module_dict[key] is value, f'{name} has another {key}'
    for key in found.module_dict.keys() - before[name].keys():
        assert found.module_dict[key].__module__.startswith('mmvanilla.'), key
        print(key)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    assert {'VanillaNet', 'VanillaNetClsHead', 'SeriesActivation', 'DeepTrainingHook'} <= names
    assert not {'PlainNet', 'TwoIdeas'} & names, 'nets of projects/ are registered by projects/'


def test_import_leaves_the_loaders_of_checkpoints_alone():
    code = """
import mmcv
from mmengine.runner import CheckpointLoader
import mmengine.runner.checkpoint as checkpoint
before, functions = dict(CheckpointLoader._schemes), dict(vars(checkpoint))
assert 's3' in ' '.join(before)
import mmvanilla
assert list(CheckpointLoader._schemes.items()) == list(before.items())
assert dict(vars(checkpoint)) == functions
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def imported_by(folder):
    """Return the first names of everything that the files of a folder import from elsewhere."""
    names = set()
    for path in folder.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split('.')[0])
    return names - sys.stdlib_module_names - {'mmvanilla'}


def test_every_import_of_the_package_is_a_declared_dependency():
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies'].values()
    lines = [*project['dependencies'], *(line for extra in extras for line in extra)]
    declared = {re.match(r'[\w-]+', line)[0].lower() for line in lines}
    come_with_torch = {'triton'}
    imported = imported_by(ROOT / 'mmvanilla')
    assert {'torch', 'PIL', 'matplotlib'} <= imported
    distributions = packages_distributions()
    for name in sorted(imported - come_with_torch):
        found = {distribution.lower() for distribution in distributions.get(name, [name])}
        assert found & declared, f'{name} is imported and not named in pyproject.toml'


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmvanilla.__version__
    assert f'## [{mmvanilla.__version__}]' in (ROOT / 'CHANGELOG.md').read_text()
