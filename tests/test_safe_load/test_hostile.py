"""Hostile and broken files run nothing, write nothing, and are refused in one sentence."""

import logging
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hostile_files import HOSTILE, LYING, program
from mmengine.runner import CheckpointLoader

from mmvanilla.errors import CheckpointError
from mmvanilla.safe_load import records, safe_loading

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder two levels below the watched one, and work in it."""
    inner = tmp_path / 'a' / 'b'
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


def refusal(path, watched):
    """Load a file, which must be refused and leave everything as it was; return the sentence."""
    before = sorted(watched.rglob('*'))
    with safe_loading(), pytest.raises(CheckpointError) as error:
        CheckpointLoader.load_checkpoint(str(path))
    assert sorted(watched.rglob('*')) == before  # no canary either
    sentence = str(error.value)
    assert repr(str(path)) in sentence
    assert '\n' not in sentence
    assert sentence.endswith('nothing of it was run')
    return sentence


@pytest.mark.parametrize('kind', HOSTILE)
@pytest.mark.parametrize('old', [False, True])
def test_hostile(kind, old, folder, tmp_path, monkeypatch):
    if old:  # torch before 2.5
        monkeypatch.delattr(torch.serialization, 'safe_globals', raising=False)
    make, sentence = HOSTILE[kind]
    make(folder / 'a.pth', tmp_path / 'canary')
    assert re.search(sentence, refusal(folder / 'a.pth', tmp_path))


def test_too_many_values(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'MAX_VALUES', 10_000)
    program(b'}' * 10_002)(folder / 'a.pth', tmp_path / 'canary')
    assert 'builds more than 10,000 values' in refusal(folder / 'a.pth', tmp_path)


@pytest.mark.parametrize('kind', LYING)
def test_lying_safetensors(kind, folder, tmp_path):
    pytest.importorskip('safetensors')
    LYING[kind](folder / 'a.pth', tmp_path / 'canary')
    sentence = refusal(folder / 'a.safetensors', tmp_path)
    assert re.search('truncated or corrupt|is an empty file|holds no weights', sentence)


def test_a_directory(tmp_path, safe):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint file'):
        CheckpointLoader.load_checkpoint(str(tmp_path))


@pytest.mark.parametrize('kind', ['os.system', 'exec'])
def test_a_gadget_runs_without_the_loader(kind, folder, tmp_path):
    """The canary works: what the other tests do not see would be seen."""
    HOSTILE[kind][0](folder / 'a.pth', tmp_path / 'canary')
    torch.load(folder / 'a.pth', weights_only=False)
    assert (tmp_path / 'canary').exists()


@pytest.mark.parametrize(
    ('tool', 'kind'),
    [
        ('train', 'os.system'),
        ('load from', 'getattr to a call'),
        pytest.param('resume', 'legacy keys', marks=pytest.mark.slow),
        ('test', 'getattr to globals'),
        ('test', 'zip bomb'),
        ('predict', 'array of addresses'),
        ('predict', 'two archives'),
        ('deploy', 'pairs as a name'),
        ('convert', 'legacy format'),
        ('convert', 'attributes of a state dict'),
    ],
)
def test_tools(tool, kind, small_config, tmp_path, capsys, monkeypatch):
    from mmvanilla.datasets import make_shapes

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's logger outlives a test
    file = tmp_path / 'a.pth'
    HOSTILE[kind][0](file, tmp_path / 'canary')
    config = tmp_path / 'config.py'
    cfg = small_config('retinanet')
    if tool == 'train':
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    cfg.dump(config)
    image = tmp_path / 'b.png'
    data = make_shapes(tmp_path / 'shapes', train=2, val=1, size=64) / 'coco'
    image.write_bytes(next(data.rglob('*.jpg')).read_bytes())
    run = ['--data-root', data, '--work-dir', tmp_path / 'work']
    arguments = {
        'train': ['train.py', config, *run],
        'load from': ['train.py', config, *run, '--cfg-options', f'load_from={file}'],
        'resume': ['train.py', config, *run, '--resume', file],
        'test': ['test.py', config, file, *run],
        'predict': ['predict.py', config, file, image, '--out', tmp_path / 'out'],
        'deploy': ['deploy.py', config, file, '--out', tmp_path / 'fused.pth', '--data-root', data],
        'convert': ['convert_checkpoint.py', file, tmp_path / 'new.pth'],
    }[tool]
    monkeypatch.setattr(sys, 'argv', [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(f'tools/{arguments[0]}', run_name='__main__')
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    (line,) = [line for line in error.splitlines() if f'{arguments[0]}: error: ' in line]
    assert re.search(HOSTILE[kind][1], line)
    assert not (tmp_path / 'canary').exists()
    assert not {'fused.pth', 'new.pth'} & {path.name for path in tmp_path.iterdir()}
