"""A label out of range is named with its file."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData

from mmvanilla.engine import CheckLabelsHook
from mmvanilla.errors import UserError


def check(labels, reduce_zero_label=True):
    dataset = SimpleNamespace(metainfo=dict(classes=['a'] * 150))
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset))
    sample = SimpleNamespace(
        gt_sem_seg=PixelData(data=torch.tensor([[labels]])),
        seg_map_path='street.png',
        reduce_zero_label=reduce_zero_label,
    )
    CheckLabelsHook().before_train_iter(runner, 0, dict(data_samples=[sample]))


def test_every_good_label():
    check([*range(150), 255])
    check([*range(150), 255], reduce_zero_label=False)


def test_bad_labels():
    with pytest.raises(UserError, match="'street.png' holds the label 151, .* from 0 to 150;"):
        check([0, 150, 255])
    with pytest.raises(UserError, match='holds the label 200, .* from 0 to 149;'):
        check([0, 200], reduce_zero_label=False)


@pytest.mark.parametrize('head', ['decode_head', 'auxiliary_head'])
def test_another_number_of_classes(head):
    dataset = SimpleNamespace(metainfo=dict(classes=['a'] * 150))
    model = torch.nn.Module()
    model.decode_head, model.auxiliary_head = torch.nn.Module(), torch.nn.Module()
    model.decode_head.num_classes = model.auxiliary_head.num_classes = 150
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset), model=model)
    CheckLabelsHook().before_train(runner)
    getattr(model, head).num_classes = 19
    with pytest.raises(UserError, match=f'{head}.num_classes is 19, but the data set has 150'):
        CheckLabelsHook().before_train(runner)
