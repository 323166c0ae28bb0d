"""Narrow nets overfit a few real images, with the command-line tools."""

import json
import os
import re
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / 'shared/data/coco'
ADE20K = ROOT.parent / 'shared/data/ade/ADEChallengeData2016'
NUM_IMAGES = 6


@pytest.fixture
def handful(tmp_path):
    """Write a data set of the first training images."""
    whole = json.loads((COCO / 'annotations/instances_train2017.json').read_text())
    whole['images'] = whole['images'][:NUM_IMAGES]
    ids = {image['id'] for image in whole['images']}
    whole['annotations'] = [a for a in whole['annotations'] if a['image_id'] in ids]
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(whole))
    os.symlink(COCO / 'train2017', tmp_path / 'train2017')
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not COCO.is_dir(), reason='the real COCO images are not here')
def test_mask_rcnn_on_coco(handful, run_forked, tmp_path):
    config = 'tests/data/overfit_coco.py'
    printed = run_forked(
        'train.py', config, '--data-root', handful, '--work-dir', tmp_path / 'work'
    )
    results = re.findall(r'coco/bbox_mAP: (\d\.\d+).*coco/segm_mAP: (\d\.\d+)', printed)
    box_ap, mask_ap = map(float, results[-1])
    print(f'box AP {box_ap}, mask AP {mask_ap} on {NUM_IMAGES} images')
    assert box_ap >= 0.5


@pytest.mark.slow
@pytest.mark.skipif(not ADE20K.is_dir(), reason='the real ADE20K images are not here')
def test_upernet_on_ade20k(run_forked, tmp_path):
    config = 'tests/data/overfit_ade20k.py'
    common = ['--data-root', ADE20K, '--work-dir', tmp_path / 'work']
    run_forked('train.py', config, *common)
    pictures = tmp_path / 'pictures'
    checkpoint = tmp_path / 'work/iter_500.pth'
    printed = run_forked('test.py', config, checkpoint, *common, '--show-dir', pictures)
    miou = float(re.findall(r'mIoU: (\d+\.\d+)', printed)[-1])
    print(f'mIoU {miou} over the classes present')
    assert miou >= 80
    drawn = [path for path in pictures.rglob('*') if path.suffix in ('.png', '.jpg')]
    assert len(drawn) == 3
    assert all(cv2.imread(str(path)) is not None for path in drawn)
