"""tools/make_config.py: the written configs train, and every choice follows from the data."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmvanilla import UserError
from mmvanilla.benchmark.peak_memory import peak_memory
from mmvanilla.datasets import CLASSES, make_shapes
from mmvanilla.labels.facts import Facts, find_facts
from mmvanilla.labels.memory import step_memory
from mmvanilla.labels.suggest import covered, shorten, with_classes


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The shapes with three of their classes, in the layouts of COCO, ADE20K and ImageNet."""
    root = make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=4, size=96)
    for split in ('train', 'val'):
        file = root / f'coco/annotations/instances_{split}2017.json'
        document = json.loads(file.read_text())
        document['categories'] = document['categories'][:3]
        document['annotations'] = [n for n in document['annotations'] if n['category_id'] <= 3]
        file.write_text(json.dumps(document))
        for name in ('cat', 'dog'):
            folder = root / 'folders' / split / name
            shutil.copytree(root / f'coco/{split}2017', folder)
    ade = root / 'ADEChallengeData2016'
    (ade / 'classes.txt').write_text('\n'.join(['background', *CLASSES]) + '\n')
    return root


def write(tool_output, tmp_path, data, recipe, *options):
    file = tmp_path / 'mine.py'
    file.unlink(missing_ok=True)
    tool_output('make_config.py', data, '--recipe', recipe, '--out', file, *options)
    return file, Config.fromfile(file)


TRAINED = {
    'mask_rcnn_vanillanet13_shapes': ('coco', 'coco/segm_mAP'),
    'retinanet_vanillanet13_shapes': ('coco', 'coco/bbox_mAP'),
    'upernet_vanillanet13_shapes': ('ADEChallengeData2016', 'mIoU'),
}


@pytest.mark.parametrize('recipe', TRAINED)
def test_the_config_trains(recipe, data, tool_output, tmp_path):
    layout, monitor = TRAINED[recipe]
    file, cfg = write(tool_output, tmp_path, data / layout, recipe, '--batch-size', 4)
    length = 'train_cfg.max_iters=2' if 'upernet' in recipe else 'train_cfg.max_epochs=1'
    options = [length, 'train_cfg.val_interval=1', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    options += ['custom_hooks.3.end=1'] * ('upernet' in recipe)  # of the deep training
    work = tmp_path / 'work'
    tool_output('train.py', file, '--work-dir', work, '--cfg-options', *options)
    best = list(work.glob(f'best_{monitor.replace("/", "_")}*.pth'))
    assert list(work.glob('*/vis_data/vis_image/*')) or 'retinanet' in recipe
    assert best or 'retinanet' in recipe  # which detects nothing after three steps
    assert cfg.default_hooks.checkpoint.save_best == monitor
    assert list(work.glob('*_1.pth')) or list(work.glob('*_2.pth'))
    assert cfg.train_dataloader.batch_size == 4


FULL = [
    ('mask_rcnn_vanillanet13', 'coco', 3),
    ('cascade_mask_rcnn_vanillanet13', 'coco', 3),
    ('retinanet_vanillanet13', 'coco', 3),
    ('faster_rcnn_vanillanet13', 'coco', 3),
    ('upernet_vanillanet13', 'ADEChallengeData2016', 7),
    ('vanillanet9_imagenet', 'folders', 2),
    ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'coco', 3),
    ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'coco', 3),
    ('mmseg::pspnet/pspnet_r18-d8_4xb4-80k_potsdam-512x512.py', 'ADEChallengeData2016', 7),
]


@pytest.mark.parametrize(('recipe', 'layout', 'number'), FULL)
def test_every_number_of_classes(recipe, layout, number, data, tool_output, tmp_path):
    """The model is built, and its data sets read images with these classes."""
    _, cfg = write(tool_output, tmp_path, data / layout, recipe)
    assert not re.search(r"'num_classes': (80|150|1000)\b", str(cfg.model))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        MODELS.build(cfg.model)
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset.metainfo['classes']) == number
        copies = 2 if layout == 'folders' else 1
        assert len(dataset) == (12 if split == 'train' else 4) * copies
        dataset[0]


def batch_of(scope, number, side):
    """Return a batch with random ground truth, as a data preprocessor takes it."""
    image = torch.randint(0, 255, (3, side, side), dtype=torch.uint8)
    if scope == 'mmdet':
        shapes = [[3, side, side]] * number
        return demo_mm_inputs(number, shapes, num_items=[6] * number, num_classes=3, with_mask=True)
    label_map = PixelData(data=torch.randint(0, 3, (1, side, side)))
    sample = SegDataSample(gt_sem_seg=label_map, metainfo=dict(img_shape=(side, side)))
    return dict(inputs=[image] * number, data_samples=[sample] * number)


@pytest.mark.parametrize('recipe', ['mask_rcnn', 'upernet'])
def test_memory_of_a_step(recipe):
    """Against the profiler's peaks of a whole step, with losses and gradients."""
    cfg = Config.fromfile(f'configs/{recipe}_vanillanet13_shapes.py')
    side = 256
    if recipe == 'upernet':
        cfg.model.data_preprocessor.size = (side, side)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()

    def peak(number):
        batch = batch_of(cfg.default_scope, number, side)

        def step():
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
            loss, _ = model.parse_losses(losses)
            loss.backward()
            model.zero_grad()

        return peak_memory(model, step, torch.device('cpu'))

    weights, image = step_memory(cfg, (side, side))
    assert weights == 4 * 4 * sum(weight.numel() for weight in model.parameters())
    assert 0.7 < image * 4 / (peak(6) - peak(2)) < 1.5


def test_batch_size_by_memory(data, tool_output, tmp_path, monkeypatch, run_tool):
    folder = data / 'coco'
    _, usual = write(tool_output, tmp_path, folder, 'mask_rcnn_vanillanet13_shapes')
    assert usual.train_dataloader.batch_size == 3
    monkeypatch.setattr('mmvanilla.labels.suggest.free_memory', lambda: (2**26, 'here'))
    _, cfg = write(tool_output, tmp_path, folder, 'mask_rcnn_vanillanet13_shapes')
    assert cfg.train_dataloader.batch_size == 1
    rates = [each.optim_wrapper.optimizer.lr for each in (usual, cfg)]
    assert rates[1] == pytest.approx(rates[0] / 3, rel=0.1)
    options = ('--recipe', 'mask_rcnn_vanillanet13_shapes', '--batch-size', 8, '--dry-run')
    assert 'a batch of 8 needs' in run_tool('make_config.py', folder, *options)[2]


@pytest.mark.parametrize('factor', [0.5, 0.001])
def test_schedules_of_any_length(factor):
    """Schedules that mmengine takes, and of the same shape if there are steps enough."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    parts = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
        dict(type='CosineAnnealingLR', T_max=300, begin=100, end=400),
        dict(type='CosineAnnealingLR', T_max=10, begin=390, end=400),
        dict(type='MultiStepLR', milestones=[200, 300], begin=0, end=400),
    ]
    for part in parts:
        short = shorten(part, factor, steps=round(4000 * factor))
        PARAM_SCHEDULERS.build(dict(short, optimizer=optimizer))
        if factor == 0.5 and part.get('by_epoch', True):
            assert short['end'] == part['end'] / 2
    assert shorten(parts[0], 0.5, 2000)['end'] == 200


def test_a_short_training_warms_up():
    """The learning rate rises, also in a training of 15 steps."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1)
    warm_up = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500)
    schedule = PARAM_SCHEDULERS.build(dict(shorten(warm_up, 0.01, 15), optimizer=optimizer))
    for _ in range(15):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]['lr'] == 1


def test_a_config_is_not_overwritten(data, tool_output, tool_error, tmp_path):
    file, _ = write(tool_output, tmp_path, data / 'coco', 'retinanet_vanillanet13_shapes')
    file.write_text('mine')
    options = ('--recipe', 'retinanet_vanillanet13_shapes', '--out', file)
    assert 'exists' in tool_error('make_config.py', data / 'coco', *options)
    assert file.read_text() == 'mine'


def test_class_weights_change_their_length():
    head = dict(num_classes=80, loss=dict(class_weight=[1.0] * 80 + [0.1]), other=1)
    changed = with_classes(dict(head=head), 3)
    assert changed == dict(head=dict(num_classes=3, loss=dict(class_weight=[1.0] * 3 + [0.1])))


def test_images_are_enlarged_twice_at_most(tool_output, tmp_path, data):
    _, cfg = write(tool_output, tmp_path, data / 'coco', 'mask_rcnn_vanillanet13')
    resize = next(step for step in cfg.val_pipeline if step.type == 'Resize')
    assert min(resize.scale) == 192
    _, cfg = write(tool_output, tmp_path, data / 'ADEChallengeData2016', 'upernet_vanillanet13')
    crop = next(step for step in cfg.train_pipeline if step.type == 'RandomCrop')
    assert tuple(crop.crop_size) == (192, 192)
    assert tuple(cfg.model.data_preprocessor.size) == (192, 192)


def test_coverage_of_anchors():
    """Against a brute-force IoU of boxes on a fine grid of pixels."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(10, 200, (20, 2))
    sizes, ratios = np.array([32.0, 64, 128]), np.array([0.5, 1.0, 2.0])
    found = 0
    grid = np.arange(-300, 300) + 0.5
    for width, height in boxes:
        inside = (abs(grid[None]) < width / 2) & (abs(grid[:, None]) < height / 2)
        best = 0
        for size in sizes:
            for ratio in ratios:
                w, h = size / ratio**0.5, size * ratio**0.5
                anchor = (abs(grid[None]) < w / 2) & (abs(grid[:, None]) < h / 2)
                best = max(best, (inside & anchor).sum() / (inside | anchor).sum())
        found += best >= 0.5
    assert covered(boxes, sizes, ratios) == pytest.approx(found / 20, abs=0.051)


def test_anchors_for_small_objects(tool_output, tmp_path):
    """Objects of 10 pixels at the scale of the net get smaller anchors; of 100, the recipe's."""
    for side, changed in ((5, True), (50, False)):
        root = tmp_path / str(side)
        for split in ('train', 'val'):
            (root / f'{split}2017').mkdir(parents=True)
            cv2.imwrite(root / f'{split}2017/a.png', np.zeros((400, 600, 3), np.uint8))
            box = dict(id=1, image_id=1, category_id=1, bbox=[9, 9, side, side], area=side**2)
            document = dict(
                images=[dict(id=1, file_name='a.png', width=600, height=400)],
                annotations=[dict(box, iscrowd=0)],
                categories=[dict(id=1, name='x')],
            )
            (root / 'annotations').mkdir(exist_ok=True)
            file = root / f'annotations/instances_{split}2017.json'
            file.write_text(json.dumps(document))
        _, cfg = write(tool_output, tmp_path, root, 'faster_rcnn_vanillanet13')
        assert (cfg.model.rpn_head.anchor_generator.scales != [8]) == changed


def test_refusals(data, tool_error, tmp_path):
    def refused(folder, recipe, *options):
        return tool_error('make_config.py', folder, '--recipe', recipe, '--dry-run', *options)

    assert 'for segmentation' in refused(data / 'ADEChallengeData2016', 'mask_rcnn_vanillanet13')
    assert 'no folder' in refused(tmp_path / 'none', 'mask_rcnn_vanillanet13')
    assert 'neither' in refused(data, 'mask_rcnn_vanillanet13')
    assert 'no config file' in refused(data / 'coco', 'mask_rcnn_vanillanet14')
    boxes = tmp_path / 'boxes'
    shutil.copytree(data / 'coco', boxes)
    file = boxes / 'annotations/instances_train2017.json'
    document = json.loads(file.read_text())
    for note in document['annotations']:
        note['segmentation'] = []
    file.write_text(json.dumps(document))
    assert 'faster_rcnn' in refused(boxes, 'mask_rcnn_vanillanet13')
    document['images'] = []
    document['annotations'] = []
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match="'train'"):
        find_facts(boxes)


def test_warnings_name_rare_classes(data, run_tool):
    options = ('--recipe', 'retinanet_vanillanet13', '--dry-run')
    code, out, error = run_tool('make_config.py', data / 'coco', *options)
    assert code == 0
    assert "'circle' (" in error
    assert '_base_' in out


def test_facts_equal_pycocotools(data):
    from pycocotools.coco import COCO

    coco = COCO(data / 'coco/annotations/instances_train2017.json')
    facts = find_facts(data / 'coco')
    assert isinstance(facts, Facts)
    assert facts.classes == CLASSES[:3]
    assert facts.masks
    assert sum(facts.objects.values()) == len(coco.getAnnIds())
    for i, name in enumerate(facts.classes, 1):
        assert facts.objects[name] == len(coco.getAnnIds(catIds=i))
