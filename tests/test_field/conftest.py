"""Narrow models trained for a few steps, each once for all tests."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmvanilla import make_shapes
from mmvanilla.deploy.export import exportable, write_model
from mmvanilla.deploy.load import build_model
from mmvanilla.deploy.predict import tested_classes


class Trained(NamedTuple):
    """Config and checkpoint written by a training, and images to predict."""

    config: str
    checkpoint: str
    images: list[str]


@pytest.fixture(scope='session')
def shapes(once):
    options = dict(train=12, val=4, size=64)
    return once('shapes', lambda folder: make_shapes(folder / 'shapes', **options)) / 'shapes'


@pytest.fixture(scope='session')
def train(once):
    """Train a config on the data in a folder; return its files."""

    def run(name, cfg, root, images):
        def write(folder):
            cfg.work_dir, cfg.experiment_name, cfg.visualizer.name = str(folder / name), name, name
            for key in ('train', 'val', 'test'):
                cfg[f'{key}_dataloader'].update(num_workers=0, persistent_workers=False)
                cfg[f'{key}_dataloader'].dataset.data_root = f'{root}/'
            Runner.from_cfg(cfg).train()

        work_dir = once(f'trained_{name}', write) / name
        (config,) = work_dir.glob('*.py')
        checkpoint = (work_dir / 'last_checkpoint').read_text()
        return Trained(str(config), checkpoint, sorted(map(str, Path(root).glob(images))))

    return run


@pytest.fixture(scope='session')
def export(once):
    """Export a trained model to OpenVINO, once for all tests."""

    def run(trained):
        def write(folder):
            cfg = Config.fromfile(trained.config)
            model, _ = build_model(cfg, trained.checkpoint)
            example = torch.full((1, 3, 64, 64), 99.0)
            file = str(folder / 'model.xml')
            write_model(exportable(model), example, file, classes=list(tested_classes(cfg)))

        name = Path(trained.config).parent.name
        return str(once(f'exported_{name}', write) / 'model.xml')

    return run


@pytest.fixture(scope='session')
def detector(shapes, train):
    """A RetinaNet, averaged by EMAHook, with 100 boxes an image."""
    cfg = Config.fromfile('tests/data/tiny_shapes.py')
    cfg.model.test_cfg.score_thr = 0.001
    cfg.train_dataloader.dataset.metainfo.licence = dict(name='CC0')
    cfg.default_hooks.checkpoint.published_keys = ['meta', 'state_dict']
    file = 'annotations/instances_val2017.json'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(shapes / 'coco' / file)
    return train('detector', cfg, shapes / 'coco', 'val2017/*')


@pytest.fixture(scope='session')
def segmentor(shapes, train):
    """A UPerNet."""
    cfg = Config.fromfile('configs/upernet_vanillanet13_shapes.py')
    cfg.merge_from_dict(
        {
            'model.data_preprocessor.size': (64, 64),
            'model.backbone.arch': dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]),
            'model.decode_head': dict(in_channels=[16, 24, 32, 32], channels=16),
            'model.auxiliary_head': dict(in_channels=32, channels=16),
            'train_cfg': dict(max_iters=10, val_interval=10),
            'default_hooks.checkpoint.interval': 10,
        }
    )
    cfg.custom_hooks[3].end = 5
    for key in ('train', 'val', 'test'):
        cfg[f'{key}_dataloader'].batch_size = 2
    pipelines = [cfg[f'{key}_dataloader'].dataset.pipeline for key in ('train', 'val', 'test')]
    for pipeline in (*pipelines, cfg.test_pipeline):  # mmseg's init_model uses cfg.test_pipeline
        for step in pipeline:
            if step.type == 'Resize':
                step.scale = (64, 64)
    root = shapes / 'ADEChallengeData2016'
    return train('segmentor', cfg, root, 'images/validation/*')


@pytest.fixture(scope='session')
def classifier(once, train):
    """A classifier of three textures, averaged by EMAHook."""

    def write(root):
        rng = np.random.default_rng(0)
        for part in ('train', 'val'):
            for i, name in enumerate(('noise', 'plain', 'stripes')):
                (root / part / name).mkdir(parents=True)
                for j in range(8):
                    image = rng.integers(0, 80 * (i + 1), (80, 80, 3), dtype=np.uint8)
                    cv2.imwrite(str(root / part / name / f'{j}.png'), image)

    cfg = Config.fromfile('tests/data/tiny_imagenet.py')
    cfg.train_cfg.max_epochs = 2
    cfg.custom_hooks[2].end = 3
    return train('classifier', cfg, once('textures', write), 'val/*/0.png')
