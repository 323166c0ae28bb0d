"""Run every code block of README, CONTRIBUTING and docs/ in a folder of tiny files.

The folder has configs of the same names with narrow nets, their checkpoints, and images of 64
pixels. Long commands are parsed, not run (`PARSED`). Other blocks have to be in `SHOWN`.
"""

import argparse
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from packaging.requirements import Requirement

from mmvanilla import make_shapes
from mmvanilla.cli.main import COMMANDS
from mmvanilla.deploy.accelerate.low_precision import has_fast_bfloat16

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
NOTEBOOK = ROOT / 'docs/first_steps.ipynb'
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)

# Replacements for the reader's files.
DETECTOR = 'configs/mask_rcnn_vanillanet13.py', 'work_dirs/mask_rcnn_vanillanet13/epoch_12.pth'
NAMES = {
    'CONFIG CHECKPOINT': 'configs/vanillanet5_imagenet.py vanillanet_5.pth',  # fast to export
    'CONFIG': 'configs/vanillanet5_imagenet.py',
    'CHECKPOINT': DETECTOR[1],
}
# Programs, arguments and configs whose commands are parsed only, and why.
PARSED = {
    'tools/fps.py': 'times whole nets',
    'tools/reproduce.py': 'times or trains whole nets',
    'tools/make_shapes.py': 'draws 500 pictures',
    'tools/dist_train.sh': 'starts eight processes',
    'tools/slurm_train.sh': 'needs Slurm',
    'benchmarks/': 'measure for minutes',
    'model.backbone.arch=9': 'is a whole VanillaNet-9',
    'mask_rcnn_vanillanet13_shapes.py': 'trains for minutes',
    '--web': 'downloads a package',
    **dict.fromkeys(('mine.py', 'boxes.py', 'regions.py'), 'trains for minutes'),
    'mmdet::': 'needs the weights of a teacher',
    'mask_rcnn_vanillanet13_shapes_distill.py': 'trains for minutes',
}
# Blocks that are not run here, by their first characters, and what tests them.
SHOWN = {
    'train.py: error: [Errno 28]': 'tests/test_engine/test_atomic_checkpoint.py',
    'test.py: error: the checkpoint has 1000': 'tests/test_tools/test_classifier_tools.py',
    'tools   benchmarks': 'make lint',
    'config file\n  cli': 'tests/test_engine/test_preflight.py',
    '--8<-- "examples/': 'tests/test_deploy/test_programs.py',
    'g++ ': 'tests/test_deploy/test_programs.py',
    '#!/usr/bin/env bash\n#SBATCH': 'tests/test_tools/test_multi_node.py',
}


def blocks(language):
    """Return the blocks of a language as test parameters."""
    return [
        pytest.param(text, id=f'{path.name}-{number}')
        for path in PAGES
        for number, (found, text) in enumerate(BLOCK.findall(path.read_text()), 1)
        if found == language
    ]


@pytest.fixture(scope='module')
def world(tmp_path_factory, small_config):
    """Make the folder, with data, configs and checkpoints."""
    root = tmp_path_factory.mktemp('world')
    for folder in ('configs', 'photos', 'more', 'path/to', 'data/ade'):
        (root / folder).mkdir(parents=True)
    (root / 'tools').symlink_to(ROOT / 'tools')
    shapes = make_shapes(root / 'data/shapes', train=4, val=2, size=64)
    (root / 'data/coco').symlink_to(shapes / 'coco')
    (root / 'data/ade/ADEChallengeData2016').symlink_to(shapes / 'ADEChallengeData2016')
    write_labels(shapes, root / 'data')
    rng = np.random.default_rng(0)
    images = [
        f'data/{name}/{split}/{label:02}/{number}.png'
        for name, split in itertools.product(('imagenet', 'flowers'), ('train', 'val'))
        for label, number in itertools.product(range(17), range(2))
    ]
    for file in (*images, 'photo.jpg', 'photos/a.jpg', 'more/b.jpg'):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / file), rng.integers(0, 256, (64, 64, 3), np.uint8))
    video = cv2.VideoWriter(str(root / 'walk.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 25, (64, 64))
    video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    script = 'import sys\nassert sys.argv[1:] == ["--its", "arguments"]\n'
    (root / 'path/to/script.py').write_text(script)

    tiny = dict(
        mask_rcnn_vanillanet13=small_config('mask_rcnn'),
        upernet_vanillanet13=small_config('upernet'),
        vanillanet5_imagenet=Config.fromfile(ROOT / 'tests/data/tiny_imagenet.py'),
    )
    for cfg in tiny.values():
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(batch_size=2, num_workers=0, persistent_workers=False)
            loader.dataset.serialize_data = False
            for step in loader.dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = (64, 64)
            if 'metainfo' in loader.dataset and loader.dataset.type == 'ImageNet':
                loader.dataset.type = 'CustomDataset'  # reads the classes from the folders
                del loader.dataset.metainfo
    tiny['mask_rcnn_vanillanet13'].merge_from_dict(
        {
            'auto_scale_lr': dict(enable=False, base_batch_size=32),
            'default_hooks.checkpoint.interval': 1,
            'train_cfg.max_epochs': 2,
        }
    )
    tiny['vanillanet5_imagenet'].merge_from_dict(
        {
            'train_cfg.max_epochs': 1,
            'custom_hooks.2.end': 2,
            'model.head.num_classes': 17,
            'model.data_preprocessor.num_classes': 17,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(
            'mmengine.config.config.FormatCode', lambda text, **_: (text, False), raising=False
        )
        for name, cfg in tiny.items():
            cfg.dump(f'configs/{name}.py')
        train('mask_rcnn_vanillanet13', 'epoch_12.pth', max_epochs=1)
        train('vanillanet5_imagenet', '../../vanillanet_5.pth')
    return root


def write_labels(shapes, folder):
    """Write the training images in the formats of YOLO and VOC, as docs/own_data.md does."""
    coco = shapes / 'coco'
    annotations = coco / 'annotations/instances_train2017.json'
    scenes = sv.DetectionDataset.from_coco(coco / 'train2017', annotations, force_masks=True)
    for name in ('yolo', 'voc'):
        (folder / name).mkdir()
    scenes.as_yolo(*(folder / 'yolo' / name for name in ('images', 'labels', 'data.yaml')))
    scenes.as_pascal_voc(folder / 'voc/images', folder / 'voc/annotations')


def train(name, checkpoint, **options):
    """Train a config of the folder, and copy its checkpoint."""
    cfg = Config.fromfile(f'configs/{name}.py')
    cfg.work_dir = f'work_dirs/{name}'
    cfg.experiment_name = cfg.visualizer.name = name
    cfg.train_cfg.update(options)
    Runner.from_cfg(cfg).train()
    shutil.copy(f'{cfg.work_dir}/epoch_1.pth', f'{cfg.work_dir}/{checkpoint}')


@pytest.fixture
def parse_command(world, monkeypatch):
    """Run a program up to its argument parser."""

    class Parsed(Exception):
        """The arguments were parsed."""

    parse = argparse.ArgumentParser.parse_args

    def parse_only(file, *arguments):
        def parse_and_stop(self, *args):
            parse(self, *args)
            raise Parsed

        monkeypatch.setattr(sys, 'argv', [file, *arguments])
        monkeypatch.syspath_prepend(str((ROOT / file).parent))
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
            with pytest.raises(Parsed):
                runpy.run_path(str(ROOT / file), run_name='__main__')

    return parse_only


@pytest.fixture
def run_command(world, run_tool, parse_command, monkeypatch):
    """Run a command line, or parse it."""

    def run(*words):
        program, *arguments = words
        if '=' in program:
            return run(*arguments)
        if program == 'mmvanilla':
            return run('python', f'tools/{COMMANDS[arguments[0]]}', *arguments[1:])
        if program == 'pip':
            return check_requirements(arguments)
        if program in ('make', 'pytest'):
            return check_target(words)
        if program.endswith('.sh'):
            return parse_command(*started_by(words, world))
        if program == 'torchrun':
            return parse_command(*words[words.index('tools/train.py') :])
        assert program == 'python', words
        if arguments[0] == '-m':
            monkeypatch.chdir(world)
            monkeypatch.delitem(sys.modules, arguments[1], raising=False)
            monkeypatch.setattr(sys, 'argv', arguments[1:])
            return runpy.run_module(arguments[1], run_name='__main__')
        file, *arguments = arguments
        if any(word.startswith(known) for known in PARSED for word in (file, *arguments)):
            return parse_command(file, *arguments)
        if not has_fast_bfloat16():
            arguments = [word for word in arguments if word != '--amp']
        code, printed, error = run_tool(Path(file).name, *arguments, folder=world)
        assert code == 0, printed[-2000:] + error
        return None

    return run


def started_by(words, world):
    """Return the program and arguments that a shell script starts."""
    srun = world / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        words,
        cwd=world,
        env=dict(PATH=f'{world}:{os.environ["PATH"]}', PYTHON='echo'),
        capture_output=True,
        text=True,
        check=True,
    )
    started = done.stdout.split()
    (start,) = [i for i, word in enumerate(started) if word.startswith('tools/')]
    return started[start:]


@pytest.fixture(scope='module')
def done():
    """The commands that were run; some are on several pages."""
    return set()


@pytest.mark.parametrize('block', blocks('bash'))
def test_commands(block, run_command, done, request):
    if 'sliced_prediction.py' in block:
        pytest.importorskip('sahi')
    if '--onnx' in block or '--int8' in block:
        request.getfixturevalue('exporting')
    if 'benchmarks/kernels.py' in block:
        pytest.importorskip('triton.knobs')  # not in old versions
    for name, file in NAMES.items():
        block = block.replace(name, file)
    for line in block.replace('\\\n', ' ').splitlines():
        words = tuple(shlex.split(line, comments=True))
        if words and words not in done:
            run_command(*words)
            done.add(words)


@pytest.mark.slow
def test_own_data(run_tool, tmp_path, exporting):
    """Every block of docs/own_data.md, in its order, with fewer images and epochs."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    changes = {'--train 200 --val 50': '--train 24 --val 2', '--epochs 12': '--epochs 1'}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for language, block in BLOCK.findall((ROOT / 'docs/own_data.md').read_text()):
            if language == 'python':
                exec(block, {})
                continue
            for line in block.splitlines():
                for old, new in changes.items():
                    line = line.replace(old, new)
                program, tool, *arguments = shlex.split(line)
                assert program == 'python'
                for i, word in enumerate(arguments):
                    if word.endswith('.pth'):
                        last = tmp_path / Path(word).parent / 'last_checkpoint'
                        arguments[i] = last.read_text()
                code, out, error = run_tool(Path(tool).name, *arguments, folder=tmp_path)
                assert code == 0, out[-2000:] + error
    for name in ('report', 'report_boxes', 'report_regions'):
        assert '<h2>Confusion</h2>' in (tmp_path / name / 'index.html').read_text()
    assert (tmp_path / 'mine.onnx').exists()


def check_requirements(words):
    """Check that pip's arguments are extras or dependencies of the package."""
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    known = {Requirement(line).name for lines in extras.values() for line in lines}
    assert words[0] == 'install'
    for word in words[1:]:
        if not word.startswith('-'):
            asked = Requirement(re.sub(r'^\.', 'mmvanilla', word))
            assert asked.name in known | {'mmvanilla'}
            assert asked.extras <= set(extras)


def check_target(words):
    """Check that make has the target, and that pytest's paths exist."""
    if words[0] == 'make':
        if not (ROOT / 'mmvanilla').is_dir():
            pytest.skip('needs the package in the checkout')
        subprocess.run(['make', '-n', *words[1:]], cwd=ROOT, check=True, capture_output=True)
    else:
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith('tests/'))


@pytest.mark.parametrize('block', blocks('python'))
def test_python(block, world, monkeypatch):
    monkeypatch.chdir(world)
    for package in ('sahi', 'segmentation_models_pytorch'):
        if f'from {package}' in block:
            pytest.importorskip(package)
    if 'read_base' not in block and re.search(r'^(import|from) ', block, re.MULTILINE):
        exec(block, dict(zip(('config', 'checkpoint'), DETECTOR, strict=True)))
        return
    (world / 'config.py').write_text(block)
    cfg = Config.fromfile('config.py')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for hook in cfg.get('default_hooks', {}).values():
        HOOKS.build(hook)
    if 'model' in cfg:
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        model.eval().extract_feat(torch.empty(1, 3, 256, 256, device='meta'))


@pytest.mark.parametrize('block', blocks('console'))
def test_errors(block, run_tool, tmp_path):
    """Compare with the real configs, shapes, and a checkpoint that runs a program."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    make_shapes(tmp_path / 'data/shapes', train=2, val=1, size=64)
    torch.save(dict(state_dict=Hostile()), tmp_path / 'stranger.pth')
    for session in block.split('$ ')[1:]:
        command, expected = session.strip().split('\n')
        file, *arguments = command.split()[1:]
        code, _, error = run_tool(Path(file).name, *arguments, folder=tmp_path)
        assert code == 2
        assert error.splitlines()[-1] == expected


class Hostile:
    """An object that runs a program when unpickled."""

    def __reduce__(self):
        return os.system, ('true',)


def test_every_block_is_run_or_known():
    for path in PAGES:
        for language, text in BLOCK.findall(path.read_text()):
            known = text.startswith(tuple(SHOWN))
            assert language in ('bash', 'python', 'console') or known, f'{path.name}: {text}'


def test_the_notebook_has_the_outputs_of_one_run():
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = json.dumps([cell['outputs'] for cell in cells])
    assert '"error"' not in outputs
    assert not re.search(r'(?<![\w.])/(home|root|tmp|usr|work)/', outputs), 'a local path'
    assert NOTEBOOK.stat().st_size <= 400 * 1024


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    printed = ''.join(out.text for out in notebook.cells[-1].outputs if out.name == 'stdout')
    shares = [float(share) for share in re.findall(r'([\d.]+)% of the pixels', printed)]
    assert len(shares) == 4
    assert min(shares) > 99
