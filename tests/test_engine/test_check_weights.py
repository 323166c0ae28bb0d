"""A part of the model half loaded is refused, in training and in tests."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmvanilla import VanillaNet
from mmvanilla.engine import CheckWeightsHook
from mmvanilla.errors import CheckpointError


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = VanillaNet(dict(dims=[4, 4], strides=[2]), out_indices=[1])
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.bbox_head = nn.Conv2d(4, 5, 1)

    def forward(self, inputs, mode):
        raise NotImplementedError


def load(change, whole, tmp_path):
    """Load changed weights into a detector through a runner."""
    weights = change(Detector().state_dict())
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    runner = Runner(
        Detector(),
        str(tmp_path),
        load_from=str(tmp_path / 'weights.pth'),
        experiment_name=tmp_path.name,
    )
    runner.register_hook(CheckWeightsHook(whole))
    runner.load_or_resume()
    return runner.model, weights


def without(*names):
    return lambda weights: {k: v for k, v in weights.items() if not k.startswith(names)}


def other_classes(weights):
    return {**weights, 'bbox_head.weight': torch.ones(9, 4, 1, 1)}


def other_neck(weights):
    return {**weights, 'neck.0.weight': torch.ones(8, 4, 1, 1)}


def distributed(weights):
    return {'module.' + name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    ('change', 'whole'),
    [
        (dict, False),
        (dict, True),
        (distributed, True),
        (without('neck.1.num_batches_tracked'), True),
        (without('neck', 'bbox_head'), False),  # an ImageNet net
        (without('bbox_head'), False),
        (other_classes, False),
    ],
)
def test_enough(change, whole, tmp_path):
    model, weights = load(change, whole, tmp_path)
    name = 'backbone.stem1.0.weight'
    expected = weights.get(name, weights.get('module.' + name))
    assert torch.equal(model.state_dict()[name], expected)


@pytest.mark.parametrize(
    ('change', 'whole', 'sentence'),
    [
        (without('neck.0.bias'), False, "lacks 'neck.0.bias', so a part of the model would stay"),
        (other_neck, False, "'neck.0.weight' has the shape (8, 4, 1, 1) in the checkpoint and (4,"),
        (without('neck'), True, "lacks 'neck.0.weight'"),
        (without('bbox_head'), True, "lacks 'bbox_head.weight'"),
        (other_classes, True, "'bbox_head.weight' has the shape (9, 4, 1, 1) in the checkpoint"),
        (without('backbone.stem1'), False, 'the checkpoint holds no weights of a VanillaNet'),
    ],
)
def test_not_enough(change, whole, sentence, tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        load(change, whole, tmp_path)
    assert sentence in str(refusal.value)
