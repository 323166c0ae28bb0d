"""Written models on real COCO images, in ONNX Runtime and OpenVINO, against PyTorch."""

from pathlib import Path

import cv2
import pytest
import torch

from mmvanilla.deploy.export import compare, exportable, open_model, pasted, reference, write_model

COCO = Path(__file__).parents[3] / 'shared/data/coco/val2017'
VANILLANET_13 = {'backbone.arch': '13', 'neck.in_channels': [512, 1024, 2048, 4096]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COCO.is_dir(), reason='the real COCO images are not here'),
]


def read(path, short_side=320):
    image = cv2.imread(str(path))
    scale = short_side / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale)
    return torch.from_numpy(image.transpose(2, 0, 1)[None]).float().contiguous()


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
@pytest.mark.parametrize(
    ('kind', 'features', 'options'),
    [
        ('mask_rcnn', True, VANILLANET_13),
        ('mask_rcnn', False, {}),
        ('retinanet', False, {}),
        ('upernet', False, {}),
    ],
    ids=['vanillanet_13', 'mask_rcnn', 'retinanet', 'upernet'],
)
def test_real_images(kind, features, options, suffix, build, tmp_path):
    model = build(kind, **options)
    images = [read(path) for path in sorted(COCO.iterdir())[:4]]
    assert len({image.shape for image in images}) > 1
    file = str(tmp_path / f'model{suffix}')
    write_model(exportable(model, features), images[0], file)
    written = open_model(file, trust=True)
    for image in images:
        shape = tuple(image.shape[-2:])
        result = compare(pasted(written(image.numpy()), shape), reference(model, image, features))
        assert result.agrees, result.text
