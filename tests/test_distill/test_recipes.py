"""Students and teachers of the recipes fit together."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvanilla.distill.teacher import model_config
from mmvanilla.type_name import scope

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in ROOT.glob('configs/*_distill.py'))


@pytest.mark.parametrize('name', NAMES)
def test_channels_and_classes(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    hook = cfg.default_hooks.distill
    student, teacher = cfg.model, model_config(hook.teacher)
    assert teacher['_scope_'] == scope(cfg)
    (loss,) = hook.get('distill') or [None]
    if 'head' in student:
        assert student.head.num_classes == teacher['head']['num_classes'] == 1000
        assert loss.type == 'KLDivergence'
    elif 'decode_head' in student:
        ours, theirs = student.decode_head, teacher['decode_head']
        assert ours.num_classes == theirs['num_classes']
    else:
        assert student.neck.out_channels == teacher['neck']['out_channels']
        ours, theirs = student.neck.num_outs, teacher['neck']['num_outs']
        assert min(ours, theirs) >= loss.levels if loss else ours == theirs
    if loss:
        assert MODELS.build(loss).name


@pytest.mark.parametrize('name', [name for name in NAMES if 'shapes' in name])
def test_shapes_teachers_are_where_their_training_saves_them(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    plain = name.replace('_distill.py', '')
    train = Config.fromfile(ROOT / f'configs/{plain}.py').train_cfg
    last = f'epoch_{train.max_epochs}' if 'max_epochs' in train else f'iter_{train.max_iters}'
    assert cfg.default_hooks.distill.teacher_checkpoint == f'work_dirs/{plain}/{last}.pth'


def test_the_imagenet_recipe_is_a2():
    cfg = Config.fromfile(ROOT / 'configs/vanillanet13_imagenet_distill.py')
    assert cfg.model.backbone.act_num == 4
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('Lamb', 5e-3, 0.02)
    assert cfg.param_scheduler[0].start_factor * optimizer.lr == pytest.approx(1e-6)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 2048
    assert cfg.train_dataloader.sampler.num_repeats == 3
    mix = {each.type: each.alpha for each in cfg.model.train_cfg.augments}
    assert mix == dict(Mixup=0.1, CutMix=1.0)
    steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert steps['CenterCrop'].crop_size / steps['ResizeEdge'].scale == pytest.approx(
        0.95, abs=1e-3
    )
    assert cfg.model.head.loss.use_sigmoid
