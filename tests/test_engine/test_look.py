"""Classes, strides and channels that do not fit, found in the first step of a model."""

import pytest
import torch
from torch import nn

from mmvanilla import UserError
from mmvanilla.engine.look import check_head_classes, watched


class Part(nn.Module):
    """A module with settings, such as a head."""

    def __init__(self, **settings):
        super().__init__()
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, levels):
        return levels


def model(**parts):
    made = nn.Module()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def texts(*args):
    return [(finding.text, finding.refuse) for finding in check_head_classes(*args)]


def test_fewer_classes_than_labels_are_refused():
    """The last label would be learned as background."""
    detector = model(rpn_head=Part(num_classes=1), bbox_head=Part(num_classes=2))
    ((text, refuse),) = texts(detector, 3, 3)
    assert refuse
    assert 'model.bbox_head.num_classes is 2' in text
    assert 'rpn' not in text


@pytest.mark.parametrize(
    'parts',
    [
        dict(rpn_head=Part(num_classes=1)),  # RPN alone
        dict(bbox_head=Part(num_classes=3), semantic_head=Part(num_classes=2)),  # Panoptic FPN
        dict(bbox_head=Part(num_classes=3), mask_head=Part(num_classes=1, class_agnostic=True)),
        dict(backbone=Part(num_classes=1000), head=Part(num_classes=3)),
    ],
)
def test_parts_that_tell_no_classes_apart_pass(parts):
    assert texts(model(**parts), 3, 3) == []


def test_a_head_for_more_classes_is_a_warning():
    """As GroundingDINO's 256, or the 183 of a semantic head for COCO's stuff."""
    ((text, refuse),) = texts(model(bbox_head=Part(num_classes=256)), 80, 80)
    assert not refuse
    assert '256' in text


def test_labels_that_are_unknown_are_no_fault():
    assert texts(model(head=Part(num_classes=2)), 0, 0) == []
    ((text, refuse),) = texts(model(decode_head=Part(num_classes=5)), 0, 7)  # of pixels
    assert not refuse
    assert '5' in text


class Detector(nn.Module):
    def __init__(self, strides, down=(8, 16, 32), **settings):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = Part(**settings, prior_generator=Part(strides=[(s, s) for s in strides]))
        self.down = down

    def forward(self, images):
        images = self.backbone(images)
        return self.head([images[..., ::s, ::s] for s in self.down])


@pytest.mark.parametrize(
    ('side', 'strides', 'down', 'warned'),
    [
        (128, (8, 16, 32), (8, 16, 32), False),
        (128, (32, 16, 8), (32, 16, 8), False),  # YOLOv3 gives its levels top-down
        (550, (550 / 69, 550 / 35, 550 / 18), (8, 16, 32), False),  # YOLACT
        (127, (8, 16, 32), (8, 16, 32), False),
        (256, (8, 16, 32, 64, 128), (8, 16, 32, 64, 128), False),
        (225, (8, 16, 32), (8, 16, 32), False),
        (128, (4, 8, 16), (8, 16, 32), True),
        (192, (4, 8, 16), (3, 6, 12), True),  # the adaptive variant
        (128, (8, 16, 32), (32, 16, 8), True),
    ],
)
def test_strides_are_compared_with_the_features(side, strides, down, warned, monkeypatch):
    found = []
    monkeypatch.setattr('mmvanilla.engine.look.report', found.extend)
    detector = Detector(strides, down)
    with watched(detector):
        detector(torch.zeros(1, 3, side, side))
    assert ['model.head has strides' in finding.text for finding in found] == [True] * warned
    assert not detector.head._forward_pre_hooks


def test_the_part_that_fails_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1))
    with pytest.raises(UserError, match=r'model\.1 .*\[4, 5, 1, 1\]') as error, watched(net):
        net(torch.zeros(1, 3, 8, 8))
    assert '\n' not in str(error.value)


def test_a_fault_elsewhere_keeps_its_name():
    with pytest.raises(KeyError), watched(model()):
        {}['momentum_buffer']


class Keywords(Detector):
    """A detector that calls backbone and head with keywords."""

    def forward(self, images):
        images = self.backbone(input=images)
        return self.head(levels=[images[..., ::s, ::s] for s in self.down])


def test_parts_called_by_keywords_pass():
    detector = Keywords((8, 16, 32))
    with watched(detector):
        assert len(detector(torch.zeros(1, 3, 64, 64))) == 3
