"""Building a model in the form of its checkpoint, which is read once."""

import hashlib

import pytest
import torch

from mmvanilla.deploy.load import build_model
from mmvanilla.errors import CheckpointError


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('hashed', [False, True])
def test_a_checkpoint_is_read_once(hashed, deploy, build, small_config, tmp_path, monkeypatch):
    model, file = build('upernet', backbone=dict(deploy=deploy)), tmp_path / 'a.pth'
    saved = dict(state_dict=model.state_dict(), meta=dict(epoch=3))
    torch.save(saved, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda path, **how: reads.append(path) or load(path, **how))
    cfg = small_config('upernet')
    cfg.model.backbone.deploy = not deploy
    built, meta = build_model(cfg, f'{file}#sha256={digest}' if hashed else str(file))
    assert reads == [str(file)]
    assert meta == dict(epoch=3)
    assert not built.training
    assert built.backbone.deploy == deploy
    for name, value in built.state_dict().items():
        assert torch.equal(value, saved['state_dict'][name])


def test_a_checkpoint_of_other_classes(build, small_config, tmp_path):
    torch.save(dict(state_dict=build('upernet').state_dict()), tmp_path / 'a.pth')
    cfg = small_config('upernet')
    cfg.model.decode_head.num_classes = 3
    names = r"'decode_head.conv_seg.weight' has the shape \(7, .* and \(3, .*use the checkpoint of"
    with pytest.raises(CheckpointError, match=names) as got:
        build_model(cfg, str(tmp_path / 'a.pth'))
    assert len(str(got.value)) < 250


def test_a_checkpoint_without_a_head(build, small_config, tmp_path):
    weights = build('upernet').state_dict()
    kept = {k: v for k, v in weights.items() if not k.startswith('auxiliary_head')}
    torch.save(dict(state_dict=kept), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r"lacks 'auxiliary_head\..*use the checkpoint of"):
        build_model(small_config('upernet'), str(tmp_path / 'a.pth'))
