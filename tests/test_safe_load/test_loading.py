"""A training checkpoint loads with weights_only=True, without the code in it."""

import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from mmvanilla import VanillaNet
from mmvanilla.safe_load import safe_loading

NARROW = dict(dims=(8,) * 5, strides=(1, 2, 2, 2))


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


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint file'):
        load(tmp_path / 'missing.pth')
