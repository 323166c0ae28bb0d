"""tools/train.py --preview: pictures of batches, and the training stays the same."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmpretrain.models.utils import ClsDataPreprocessor

from mmvanilla.datasets import make_shapes
from mmvanilla.report.preview import restore


@pytest.mark.parametrize(
    'preprocessor',
    [
        DetDataPreprocessor(mean=[120, 110, 100], std=[58, 57, 56], bgr_to_rgb=True),
        ClsDataPreprocessor(mean=[120, 110, 100], std=[58, 57, 56], to_rgb=True),
        DetDataPreprocessor(),
    ],
)
def test_restored_pictures_are_the_images(preprocessor):
    images = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    inputs = preprocessor(dict(inputs=list(images), data_samples=None))['inputs']
    for image, picture in zip(images, restore(inputs.float(), preprocessor), strict=True):
        np.testing.assert_array_equal(picture, image.permute(1, 2, 0))


@pytest.mark.parametrize('kind', ['mask_rcnn', 'upernet'])
def test_a_training_with_a_preview_is_the_same(kind, files, tool_output, tmp_path):
    _, config, _ = files(kind)
    name = 'ADEChallengeData2016' if kind == 'upernet' else 'coco'
    data = make_shapes(tmp_path / 'shapes', train=4, val=1, size=96) / name
    lengths = {'upernet': 'max_iters=2', 'mask_rcnn': 'max_epochs=1'}
    common = ['--data-root', data, '--cfg-options', f'train_cfg.{lengths[kind]}']
    common += ['train_dataloader.batch_size=2', 'default_hooks.logger.interval=1']
    common += ['custom_hooks.3.end=1'] * (kind == 'upernet')  # of the deep training
    weights = []
    for options in ([], ['--preview', 2]):
        work = tmp_path / f'work{len(weights)}'
        out = tool_output('train.py', config, '--work-dir', work, *options, *common)
        file = sorted(work.glob('*_[12].pth'))[-1]
        weights.append(torch.load(file)['state_dict'])
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    for i in range(2):
        file = work / f'preview/batch_{i}.jpg'
        assert str(file) in out
        assert cv2.imread(file).shape[1] >= 2 * 96
    assert not (tmp_path / 'work0/preview').exists()
