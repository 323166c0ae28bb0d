"""A partly loaded model is refused, in training and in tests."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmvanilla import VanillaNet
from mmvanilla.engine import CheckWeightsHook
from mmvanilla.errors import CheckpointError


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = VanillaNet(dict(dims=[4, 4], strides=[2]), out_indices=[1])
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.bbox_head = nn.Conv2d(4, 5, 1)

    def forward(self, inputs, mode):
        raise NotImplementedError


def load(change, whole, tmp_path, model=None, **options):
    """Load changed weights into a detector as a runner's training does; return its warnings."""
    weights = change(Detector().state_dict())
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    options.setdefault('load_from', str(tmp_path / 'weights.pth'))
    runner = Runner(model or Detector(), str(tmp_path), experiment_name=tmp_path.name, **options)
    warnings, warn = [], runner.logger.warning
    runner.logger.warning = warnings.append
    hook = CheckWeightsHook(whole)
    runner.register_hook(hook)
    hook.before_run(runner)
    runner._init_model_weights()
    runner.load_or_resume()
    hook.before_test(runner) if whole else hook.before_train(runner)
    runner.logger.warning = warn
    return runner.model, weights, warnings


def without(*names):
    return lambda weights: {k: v for k, v in weights.items() if not k.startswith(names)}


def other_classes(weights):
    return {**weights, 'bbox_head.weight': torch.ones(9, 4, 1, 1)}


def other_neck(weights):
    return {**weights, 'neck.0.weight': torch.ones(8, 4, 1, 1)}


def distributed(weights):
    return {'module.' + name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    ('change', 'whole', 'left'),
    [
        (dict, False, []),
        (dict, True, []),
        (distributed, True, []),
        (without('neck.1.num_batches_tracked'), True, []),
        (without('neck', 'bbox_head'), False, ['8 of ', 'neck.0.weight', 'neck.0.bias']),
        (without('bbox_head'), False, ['2 of ', 'bbox_head.weight', 'bbox_head.bias']),
        (other_classes, False, ['1 of ', 'bbox_head.weight', '(5, 4, 1, 1)', '(9, 4, 1, 1)']),
        (without('neck.0.bias'), False, ['1 of ', 'neck.0.bias', 'missing']),
        (other_neck, False, ['1 of ', 'neck.0.weight']),
    ],
)
def test_randomly_initialized_weights_are_one_warning(change, whole, left, tmp_path):
    model, weights, warnings = load(change, whole, tmp_path)
    name = 'backbone.stem1.0.weight'
    expected = weights.get(name, weights.get('module.' + name))
    assert torch.equal(model.state_dict()[name], expected)
    assert len(warnings) == bool(left)
    assert all(text in warnings[0] for text in left)


@pytest.mark.parametrize(
    ('change', 'whole', 'sentence'),
    [
        (without('neck'), True, 'neck.0.weight (here (4, 4, 1, 1), there missing)'),
        (without('bbox_head'), True, 'bbox_head.weight (here'),
        (other_classes, True, 'bbox_head.weight (here (5, 4, 1, 1), there (9, 4, 1, 1))'),
        (without('backbone.stem1'), False, 'the checkpoint holds no weights of a VanillaNet'),
        (without('backbone'), False, "no weights of a VanillaNet under the name 'backbone'"),
        (without('backbone', 'neck', 'bbox_head'), False, 'no weights of a VanillaNet'),
    ],
)
def test_not_enough(change, whole, sentence, tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        load(lambda weights: {**change(weights), 'more': torch.ones(1)}, whole, tmp_path)
    assert sentence in str(refusal.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save(dict(state_dict=dict(fc=torch.ones(2))), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='2 of 2 tensors of the model are not in'):
        load(dict, False, tmp_path, Head(), load_from=str(tmp_path / 'other.pth'))


class Head(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode):
        raise NotImplementedError


class Renaming(BaseModel):
    """Takes the weights of a detector for student and teacher, as mmdet's SoftTeacher does."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Detector(), Detector()

    def forward(self, inputs, mode):
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict, *args):
        for name in [n for n in state_dict if not n.startswith(('student.', 'teacher.'))]:
            value = state_dict.pop(name)
            state_dict.update({f'student.{name}': value, f'teacher.{name}': value})
        super()._load_from_state_dict(state_dict, *args)


def test_a_model_that_renames_weights_is_fine_tuned_on_other_classes(tmp_path):
    model, weights, (warning,) = load(other_classes, False, tmp_path, Renaming())
    assert torch.equal(model.teacher.neck[0].weight, weights['neck.0.weight'])
    assert '2 of ' in warning
    assert 'student.bbox_head.weight' in warning


def test_heads_alone_may_be_loaded_where_the_backbone_has_its_own_checkpoint(tmp_path):
    torch.save(dict(state_dict=Detector().backbone.state_dict()), tmp_path / 'backbone.pth')
    model = Detector()
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'))
    load(without('backbone'), False, tmp_path, model)
    with pytest.raises(CheckpointError, match='no weights of a VanillaNet'):
        load(without('backbone'), False, tmp_path)


def test_an_initialisation_that_leaves_the_backbone_random_is_refused(tmp_path):
    """By the config of the whole model, which mmengine loads without an error."""
    heads = without('backbone')(Detector().state_dict())
    torch.save(dict(state_dict=heads), tmp_path / 'heads.pth')
    model = Detector()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'heads.pth'))
    with pytest.raises(CheckpointError, match='no weights of a VanillaNet'):
        load(dict, False, tmp_path, model, load_from=None)


def test_heads_alone_loaded_by_hand_before_a_training(tmp_path):
    model = Detector()
    head = without('backbone', 'neck')(Detector().state_dict())
    missing, unexpected = model.load_state_dict(head, strict=False)
    assert torch.equal(model.bbox_head.weight, head['bbox_head.weight'])
    assert 'backbone.stem1.0.weight' in missing
    assert not unexpected
    with pytest.raises(RuntimeError, match='backbone.stem1.0.weight'):
        model.load_state_dict(head)
    load(dict, False, tmp_path, model, load_from=None)  # a training from scratch
