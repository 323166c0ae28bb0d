"""Effects of importing the package, in a fresh interpreter, and the project's metadata."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

import mmvanilla
from mmvanilla.cli.main import COMMANDS, main
from mmvanilla.installed import check_installed, version

ROOT = Path(__file__).parents[1]
checkout = pytest.mark.skipif(
    not (ROOT / 'mmvanilla').is_dir(), reason='needs the package in the checkout'
)
IGNORED = shutil.ignore_patterns(
    '.venv*', '.git', 'site', 'work_dirs', 'data', 'build', 'dist', '.pytest_cache', '.mypy_cache'
)


@pytest.mark.parametrize('package', ['mmcv', 'mmengine'])
def test_a_missing_library_gets_one_sentence(package, fresh_python):
    done = fresh_python('-c', f"import sys; sys.modules['{package}'] = None; import mmvanilla")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'ImportError: mmvanilla needs {package}')
    assert 'mmvanilla[lite]' in last
    assert 'mmvanilla[onedl]' in last


@pytest.mark.parametrize(
    ('config', 'library', 'extra'),
    [
        ('retinanet_vanillanet13', 'mmdet', 'det'),
        ('upernet_vanillanet13', 'mmseg', 'seg'),
        ('vanillanet5_imagenet', 'mmpretrain', 'cls'),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    config, library, extra, run_tool, monkeypatch
):
    monkeypatch.setitem(sys.modules, library, None)
    code, _, error = run_tool('train.py', f'configs/{config}.py')
    assert code == 2
    assert library in error
    assert f'mmvanilla[{extra}]' in error
    assert 'mmvanilla[onedl]' in error


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install the metadata of a distribution."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, version):
        info = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')

    return install


ONEDL = version('onedl-mmengine')


@pytest.mark.parametrize(
    'name',
    ['mmengine', 'mmdet'] if ONEDL else ['onedl-mmengine', 'onedl-mmdetection', 'onedl-mmcv'],
)
def test_two_families_at_once_get_one_sentence(name, distribution):
    check_installed()
    distribution(name, '9.9.9')
    with pytest.raises(ImportError, match=f'{name}.* are installed, which hold the same package'):
        check_installed()


def test_a_torch_that_is_too_old_gets_one_sentence(distribution):
    distribution('torch', '2.0.1+cu118')
    with pytest.raises(ImportError, match=r'needs torch 2\.1 or later, and 2\.0\.1\+cu118'):
        check_installed()


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Build the wheel and unpack it where nothing of the checkout is."""
    folder = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
    source = shutil.copytree(ROOT, folder / 'source', symlinks=True, ignore=IGNORED)
    subprocess.run([*command, '-w', folder, source], check=True, capture_output=True)
    (file,) = folder.glob('*.whl')
    site = folder / 'site'
    zipfile.ZipFile(file).extractall(site)
    return site


@pytest.fixture
def run_wheel(wheel, fresh_python, tmp_path):
    """Run a command of the unpacked wheel in an empty folder."""

    def run_command(*command):
        program = ('-m', 'mmvanilla', *command)
        return fresh_python(*program, folder=tmp_path, PYTHONPATH=str(wheel))

    return run_command


@checkout
def test_the_wheel_has_every_config_and_tool(wheel):
    mim = wheel / 'mmvanilla' / '.mim'
    for folder in ('configs', 'tools'):
        expected = {path.relative_to(ROOT) for path in (ROOT / folder).rglob('*.py')}
        assert {path.relative_to(mim) for path in (mim / folder).rglob('*.py')} == expected
    index = yaml.safe_load((mim / 'model-index.yml').read_text())
    assert all((mim / file).is_file() for file in index['Import'])


@checkout
def test_the_commands_work_from_the_wheel_in_an_empty_folder(run_wheel):
    done = run_wheel('shapes', '--out', 'data/shapes', '--train', '4', '--val', '2')
    assert done.returncode == 0, done.stderr
    done = run_wheel('check-data', 'configs/mask_rcnn_vanillanet13_shapes.py')
    assert done.returncode == 0, done.stderr
    assert '6 files checked' in done.stdout


@checkout
def test_the_wheel_reproduces_the_papers_tables(run_wheel, tmp_path):
    done = run_wheel('reproduce', 'figure2', '--published', '--out', 'out')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out/figure2_published.png').is_file()
    done = run_wheel('reproduce', 'table1')
    assert done.returncode == 2
    assert 'there is no ImageNet' in done.stderr  # the configs of the trainings are read


@checkout
def test_a_config_that_is_nowhere_is_looked_for_in_both_places(run_wheel, tmp_path):
    done = run_wheel('train', 'mask_rcnn_vanillanet99.py')
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert 'mask_rcnn_vanillanet99.py' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(('arguments', 'code'), [([], 2), (['--help'], 0), (['fly'], 2)])
def test_a_command_that_does_not_exist_is_answered_with_those_that_do(arguments, code, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmvanilla', *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code


def test_every_tool_has_a_command():
    tools = {path.name for path in (ROOT / 'tools').glob('*.py')}
    assert set(COMMANDS.values()) == tools


def test_configs_of_the_package_by_name(tmp_path):
    config = tmp_path / 'own.py'
    config.write_text("_base_ = 'mmvanilla::retinanet_vanillanet13.py'\nmodel = dict(neck=None)\n")
    expected = Config.fromfile(ROOT / 'configs/retinanet_vanillanet13.py')
    assert Config.fromfile('mmvanilla::retinanet_vanillanet13.py').to_dict() == expected.to_dict()
    own = Config.fromfile(config)
    assert own.model.neck is None
    assert own.model.backbone == expected.model.backbone
    with pytest.raises(FileNotFoundError, match=r"'mmvanilla::none\.py'"):
        Config.fromfile('mmvanilla::none.py')


def test_import_alone_registers_everything(fresh_python):
    code = """
import mmvanilla
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
assert MODELS.get('VanillaNet') is mmvanilla.VanillaNet
assert HOOKS.get('DeepTrainingHook') and HOOKS.get('ReseedHook')
assert OPTIM_WRAPPER_CONSTRUCTORS.get('VanillaNetLayerDecayConstructor')
import sys
assert not {'mmdet', 'mmseg', 'mmpretrain'} & set(sys.modules), 'only what is asked for is imported'
import mmdet.models, mmseg.models  # which ask for operators that mmcv-lite lacks
"""
    done = fresh_python('-c', code)
    assert done.returncode == 0, done.stderr


def test_import_adds_its_own_names_to_the_registries_and_changes_no_loader(fresh_python):
    code = """
import mmcv, mmengine.registry as registry
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader
import mmengine.hooks, mmengine.model, mmengine.optim, mmcv.cnn, mmcv.transforms
import mmengine.runner.checkpoint as checkpoint
loaders, functions = dict(CheckpointLoader._schemes), dict(vars(checkpoint))
assert 's3' in ' '.join(loaders)
registries = {k: v for k, v in vars(registry).items() if isinstance(v, Registry)}
before = {k: dict(v.module_dict) for k, v in registries.items()}
import mmvanilla
assert list(CheckpointLoader._schemes.items()) == list(loaders.items())
assert dict(vars(checkpoint)) == functions
for name, found in registries.items():
    for key, value in before[name].items():
        assert found.module_dict[key] is value, f'{name} has another {key}'
    for key in found.module_dict.keys() - before[name].keys():
        assert found.module_dict[key].__module__.startswith('mmvanilla.'), key
        print(key)
"""
    done = fresh_python('-c', code)
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    assert {'VanillaNet', 'VanillaNetClsHead', 'SeriesActivation', 'DeepTrainingHook'} <= names
    assert not {'PlainNet', 'TwoIdeas'} & names, 'nets of projects/ are registered by projects/'


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


@checkout
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


def test_a_script_that_imports_mmdet_first_runs_as_it_is(fresh_python, tmp_path):
    (tmp_path / 'beside.py').write_text('NAME = "beside"\n')
    script = tmp_path / 'script.py'
    script.write_text(
        'import sys\nfrom mmdet.apis import init_detector\nimport beside\n'
        "if __name__ == '__main__':\n    print(sys.argv[1:], beside.NAME)\n"
    )
    done = fresh_python('-m', 'mmvanilla.run', script, 'a', '--b')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['a', '--b'] beside"
    missing = fresh_python('-m', 'mmvanilla.run', tmp_path / 'none.py')
    assert missing.returncode == 1
    assert 'none.py' in missing.stderr
    assert 'Traceback' not in missing.stderr


@pytest.mark.parametrize(
    ('changed', 'touched'),
    [
        ('tests/test_tools/test_fps.py', {'tests/test_tools/test_fps.py'}),
        ('tools/deploy.py', {'tests/test_tools/test_deploy_tool.py'}),
        ('mmvanilla/ops/recompute.py', {'tests/test_ops/test_recompute.py'}),
        ('mmvanilla/errors.py', set()),
        ('README.md', set()),
    ],
)
def test_slow_tests_of_what_changed_are_chosen(changed, touched, pytestconfig):
    conftest = pytestconfig.pluginmanager.getplugin(str(Path(__file__).with_name('conftest.py')))
    tests = [
        *('tests/test_tools/test_fps.py', 'tests/test_tools/test_deploy_tool.py'),
        *('tests/test_ops/test_recompute.py', 'tests/test_models/test_vanillanet.py'),
    ]
    assert {test for test in tests if conftest.is_touched(test, {changed})} == touched
