"""Mask R-CNN with a narrow VanillaNet learns a handful of real COCO images by heart."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / 'shared/data/coco'
NUM_IMAGES = 6


@pytest.fixture
def handful(tmp_path):
    """The first few training images as a data set of their own."""
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
def test_overfit(handful, tmp_path):
    command = [sys.executable, 'tools/train.py', 'tests/data/overfit_coco.py']
    command += ['--data-root', str(handful), '--work-dir', str(tmp_path / 'work')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = re.findall(
        r'coco/bbox_mAP: (\d\.\d+).*coco/segm_mAP: (\d\.\d+)', done.stdout + done.stderr
    )
    box_ap, mask_ap = map(float, results[-1])
    print(f'box AP {box_ap}, mask AP {mask_ap} on {NUM_IMAGES} images')
    assert box_ap >= 0.5
