"""The published recipe on real COCO images, with the command-line tools."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / 'shared/data/coco'
CONFIG = 'configs/mask_rcnn_vanillanet13.py'
# Fewer and smaller images, smaller heads, no warm-up.
SMALL = [
    'model.backbone.init_cfg=None',
    'train_dataloader.dataset.indices=4',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=1',
    'train_dataloader.dataset.pipeline.2.scales=[(160,128),(192,160)]',
    'test_dataloader.dataset.indices=4',
    'test_dataloader.dataset.pipeline.1.scale=(192,160)',
    'model.neck.out_channels=64',
    'model.rpn_head.in_channels=64',
    'model.rpn_head.feat_channels=64',
    'model.roi_head.bbox_roi_extractor.out_channels=64',
    'model.roi_head.mask_roi_extractor.out_channels=64',
    'model.roi_head.bbox_head.in_channels=64',
    'model.roi_head.mask_head.in_channels=64',
    'model.roi_head.bbox_head.fc_out_channels=64',
    'model.roi_head.mask_head.conv_out_channels=16',
    'model.train_cfg.rcnn.sampler.num=64',
    'model.test_cfg.rcnn.max_per_img=20',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    'param_scheduler.0.end=4',
    'model.test_cfg.rcnn.score_thr=0',  # scores of an untrained net are low
    'default_hooks.logger.interval=1',
    'log_processor.window_size=1',
]

NETS = {
    'narrow': [
        'model.backbone.arch._delete_=True',
        'model.backbone.arch.dims=[8,16,24,32,32]',
        'model.backbone.arch.strides=[1,2,2,2]',
        'model.neck.in_channels=[16,24,32,32]',
    ],
    '13': ['model.backbone.arch=13'],
}

pytestmark = pytest.mark.skipif(not COCO.is_dir(), reason='the real COCO images are not here')


def train(run_forked, work_dir, max_epochs, options, *arguments):
    """Train; return the logged losses and learning rate of each iteration."""
    options = [*options, f'train_cfg.max_epochs={max_epochs}']
    common = ['--data-root', COCO, '--work-dir', work_dir, '--cfg-options', *options]
    run_forked('train.py', CONFIG, *arguments, *common)
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return {
        row['iter']: {key: value for key, value in row.items() if 'loss' in key or key == 'lr'}
        for row in rows
    }


@pytest.mark.parametrize('net', ['narrow', pytest.param('13', marks=pytest.mark.slow)])
def test_train_resume_test(net, run_forked, tmp_path):
    options = [*SMALL, *NETS[net]]
    whole = train(run_forked, tmp_path / 'whole', 2, options)
    first = train(run_forked, tmp_path / 'parts', 1, options)
    rest = train(run_forked, tmp_path / 'parts', 2, options, '--resume')
    assert list(whole) == [1, 2, 3, 4]
    assert whole[1].keys() > {'loss', 'loss_mask', 'loss_rpn_bbox', 'lr'}
    assert first | rest == whole  # to the last digit
    assert list(rest) == [3, 4]

    checkpoint = tmp_path / 'parts/epoch_2.pth'
    options = ['--cfg-options', *options]
    common = ['--data-root', COCO, '--work-dir', tmp_path / 'test']
    printed = run_forked('test.py', CONFIG, checkpoint, *common, *options)
    for task in ('bbox', 'segm'):
        assert re.search(rf'coco/{task}_mAP: -?\d\.\d+', printed)

    common += ['--tta', '--out', tmp_path / 'results.pkl', '--show-dir', tmp_path / 'pictures']
    printed = run_forked('test.py', CONFIG, checkpoint, *common, *options)
    assert re.search(r'coco/bbox_mAP: -?\d\.\d+', printed)
    assert (tmp_path / 'results.pkl').stat().st_size > 1000
    assert len(list((tmp_path / 'pictures').iterdir())) == 4
