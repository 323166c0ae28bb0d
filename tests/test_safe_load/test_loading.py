"""Checkpoints load with weights_only=True, and nothing that a file holds is ever run."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from mmvanilla import VanillaNet
from mmvanilla.errors import CheckpointError
from mmvanilla.safe_load import safe_loading
from mmvanilla.safe_load.download import cache_folder, cache_path

NARROW = dict(dims=(8,) * 5, strides=(1, 2, 2, 2))


class Gadget:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def load(path):
    with safe_loading():
        return CheckpointLoader.load_checkpoint(str(path))


def test_training_checkpoint_of_mmengine(tmp_path):
    hub = MessageHub.get_instance('test_training_checkpoint')
    for value in (0.5, 0.25, 0.125):
        hub.update_scalar('train/loss', value)
    hub.update_info('iter', 3)
    hub.update_info('cfg', 'import os')
    saved = dict(
        meta=dict(epoch=1, iter=3, cfg='model = 1', config='import os'),
        state_dict=VanillaNet(NARROW).state_dict(),
        message_hub=hub.state_dict(),
    )
    torch.save(saved, tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError):  # PyTorch alone refuses it
        torch.load(tmp_path / 'a.pth', weights_only=True)
    checkpoint = load(tmp_path / 'a.pth')
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == pytest.approx(0.875 / 3)
    assert history.statistics('min') == 0.125
    # mmengine runs config on resuming, and cfg (also the message hub's) in its inferencers; nothing
    # runs a text of this name.
    assert checkpoint['meta'] == dict(epoch=1, iter=3, config_text='import os')
    assert checkpoint['message_hub']['runtime_info'] == dict(iter=3)
    names = {f'backbone.{name}' for name in saved['state_dict']}  # as in a model
    assert checkpoint['state_dict'].keys() == names


@pytest.mark.parametrize(
    'gadget',
    [
        lambda canary: Gadget(os.mkdir, canary),
        lambda canary: Gadget(os.system, f'mkdir {canary}'),
        lambda canary: Gadget(eval, f'__import__("os").mkdir({canary!r})'),
        lambda canary: Gadget(getattr, dict, 'fromkeys'),
        lambda canary: Gadget(getattr, HistoryBuffer, '__init__'),
        lambda canary: Gadget(getattr, Gadget(getattr, HistoryBuffer, 'min'), '__globals__'),
        lambda canary: Gadget(get_rank),
    ],
)
def test_forbidden_pickles_are_refused_and_not_run(gadget, tmp_path):
    canary = tmp_path / 'canary'
    torch.save({'state_dict': gadget(str(canary))}, tmp_path / 'a.pth')
    with pytest.raises(
        CheckpointError, match='a.pth.* is refused, since it holds more than weights'
    ):
        load(tmp_path / 'a.pth')
    assert not canary.exists()


def whole(path):
    torch.save(dict(state_dict=dict(weight=torch.rand(1000))), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (lambda data: data[: len(data) // 2], 'truncated or corrupt'),
        (lambda data: data[:-30], 'truncated or corrupt'),
        (lambda data: data[:40] + bytes(200) + data[240:], 'truncated or corrupt'),
        (lambda data: b'', 'is an empty file'),
        (lambda data: b'<html>not found</html>', 'is not a checkpoint'),
        (lambda data: os.urandom(5000), 'is not a checkpoint'),
    ],
)
def test_damaged_files(damage, sentence, tmp_path):
    path = tmp_path / 'a.pth'
    data = whole(path)
    assert load(path)['state_dict']['weight'].shape == (1000,)
    path.write_bytes(damage(data))
    with pytest.raises(CheckpointError, match=sentence) as error:
        load(path)
    assert '\n' not in str(error.value)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint file'):
        load(tmp_path / 'missing.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list, expected a dict'):
        load(tmp_path / 'list.pth')
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    with pytest.raises(CheckpointError, match='is an archive without data.pkl'):
        load(tmp_path / 'other.zip')


def test_urls_take_the_same_way(tmp_path, monkeypatch, safe):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    url = 'https://example.invalid/release/a.pth'
    file = Path(cache_path(url, cache_folder()))
    file.parent.mkdir(parents=True)
    torch.save({'state_dict': Gadget(os.mkdir, str(tmp_path / 'canary'))}, file)
    with pytest.raises(CheckpointError, match='is refused'):
        CheckpointLoader.load_checkpoint(url)
    assert not (tmp_path / 'canary').exists()
