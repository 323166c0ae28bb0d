"""A student with a teacher is the student, with more losses in training."""

import copy

import pytest
import torch
from batches import batch_of
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS

from mmvanilla import UserError, fuse
from mmvanilla.distill import Distillation
from mmvanilla.engine import BFloat16OptimWrapper

KINDS = dict(classifier='kl', retinanet='pkd', mask_rcnn='pkd', upernet='cwd')


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def pair(cfg, **options):
    """Build a model twice, once as a student; return both and the student's Distillation."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(MODELS.build(cfg).train())
    alone, student = models
    learning = Distillation(copy.deepcopy(cfg), **options)
    learning.attach(student)
    return alone, student, learning


def losses_of(model, kind, seed=0):
    torch.manual_seed(seed)  # mixup and the sampling of proposals draw
    batch = batch_of(kind)
    torch.manual_seed(seed)
    return model(**model.data_preprocessor(batch, True), mode='loss')


@torch.no_grad()
def predictions(model, kind):
    """Return the predicted scores or logits of a batch."""
    samples = model.eval().test_step(batch_of(kind))
    if kind == 'classifier':
        return [sample.pred_score for sample in samples]
    if kind == 'upernet':
        return [sample.seg_logits.data for sample in samples]
    return [sample.pred_instances.scores for sample in samples]


@pytest.mark.parametrize('kind', KINDS)
def test_only_losses_are_added(kind, model_cfg, teacher):
    cfg = model_cfg(kind)
    alone, student, learning = pair(cfg, teacher_checkpoint=teacher(cfg))
    assert type(student) is type(alone)
    assert list(student.state_dict()) == list(alone.state_dict())
    names = [name for name, _ in alone.named_parameters()]
    assert [name for name, _ in student.named_parameters()] == names
    assert len(list(student.modules())) == len(list(alone.modules()))

    expected, found = losses_of(alone, kind), losses_of(student, kind)
    if kind == 'classifier':
        expected = dict(loss_student=expected['loss'])
    name = f'distill.loss_{KINDS[kind]}'
    assert found.keys() == expected.keys() | {name}
    assert found[name] > 0
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)

    # Gradients of the loss reach what computes the compared output.
    found[name].backward()
    compared = student.get_submodule(learning.losses[0].module)
    for module in (student.backbone, compared):
        assert any(p.grad is not None and p.grad.any() for p in module.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in learning.teacher.parameters())

    torch.testing.assert_close(predictions(student, kind), predictions(alone, kind))
    learning.detach()
    assert not any('distill' in name for name in losses_of(student.train(), kind))


@pytest.mark.parametrize('kind', KINDS)
def test_the_losses_compare_the_outputs_for_the_same_batch(kind, model_cfg, teacher):
    """Mixed and augmented once, by the student's preprocessor."""
    cfg = model_cfg(kind)
    _, student, learning = pair(cfg, teacher_checkpoint=teacher(cfg))
    found = losses_of(student, kind)
    torch.manual_seed(0)
    batch = batch_of(kind)
    torch.manual_seed(0)
    inputs = student.data_preprocessor(batch, True)['inputs']
    (loss,), outputs = learning.losses, []
    for model in (student, learning.teacher):
        seen = []
        module = model.get_submodule(loss.module)
        handle = module.register_forward_hook(lambda m, i, output, seen=seen: seen.append(output))
        with torch.no_grad():
            if kind in ('retinanet', 'mask_rcnn'):
                model.neck(model.backbone(inputs))
            else:
                model(inputs, mode='tensor')
        handle.remove()
        outputs += seen[:1]
    torch.testing.assert_close(found[f'distill.loss_{loss.name}'], loss(*outputs))


@pytest.mark.parametrize('wrapper', [OptimWrapper, BFloat16OptimWrapper])
def test_the_teacher_stays_the_same(wrapper, model_cfg, teacher):
    cfg = model_cfg('classifier')
    _, student, learning = pair(cfg, teacher_checkpoint=teacher(cfg))
    learning.load(student)
    before, weights = snapshot(learning.teacher), snapshot(student)
    optimizer = wrapper(torch.optim.SGD(student.parameters(), 0.1))
    for _ in range(3):
        student.train().train_step(batch_of('classifier'), optimizer)
    assert not learning.teacher.training
    assert same(before, learning.teacher.state_dict())
    assert not same(weights, snapshot(student))


def test_the_student_approaches_its_teacher(model_cfg, teacher):
    cfg = model_cfg('classifier')
    _, student, _ = pair(cfg, teacher_checkpoint=teacher(cfg), labels=False)
    optimizer = OptimWrapper(torch.optim.Adam(student.parameters(), 0.01))
    logs = [student.train_step(batch_of('classifier'), optimizer) for _ in range(40)]
    assert logs[0].keys() == {'loss', 'distill.loss_kl'}
    first, last = (sum(log['loss'].item() for log in part) for part in (logs[:5], logs[-5:]))
    assert last < first / 2


def test_a_copy_and_a_fused_student(model_cfg, teacher):
    """A copy, as EMAHook makes one, shares the teacher; fusing leaves it alone."""
    cfg = model_cfg('classifier')
    alone, student, learning = pair(cfg, teacher_checkpoint=teacher(cfg))
    learning.load(student)
    before = snapshot(learning.teacher)
    averaged = copy.deepcopy(student)
    assert same(averaged.state_dict(), student.state_dict())
    losses_of(averaged.train(), 'classifier')
    assert same(before, learning.teacher.state_dict())
    assert not same(averaged.state_dict(), student.state_dict())  # its own statistics
    for model in (alone, student):
        losses_of(model, 'classifier')  # for the statistics of its norms
        fuse(model.eval())
    assert list(student.state_dict()) == list(alone.state_dict())
    assert same(before, learning.teacher.state_dict())


def test_layer_decay(model_cfg, teacher):
    cfg = model_cfg('classifier')
    alone, student, _ = pair(cfg, teacher_checkpoint=teacher(cfg))
    settings = ConfigDict(
        optimizer=dict(type='SGD', lr=1.0),
        constructor='VanillaNetLayerDecayConstructor',
        paramwise_cfg=dict(decay_rate=0.5),
    )
    wrappers = [build_optim_wrapper(model, settings) for model in (alone, student)]
    groups = [wrapper.optimizer.param_groups for wrapper in wrappers]
    for expected, found in zip(*groups, strict=True):
        assert (found['group_name'], found['lr']) == (expected['group_name'], expected['lr'])
        assert [p.shape for p in found['params']] == [p.shape for p in expected['params']]


@pytest.mark.slow
def test_a_compiled_step(model_cfg, teacher):
    cfg = model_cfg('classifier')
    path, logs = teacher(cfg), []
    for compiled in (False, True):
        _, student, _ = pair(cfg, teacher_checkpoint=path)
        optimizer = OptimWrapper(torch.optim.SGD(student.parameters(), 0.01))
        step = student.train_step
        if compiled:  # as mmengine's runner compiles it
            step = torch.compile(step, backend='eager')
        logs.append([])
        for _ in range(2):
            batch = batch_of('classifier')
            torch.manual_seed(0)
            logs[-1].append(step(batch, optimizer))
    for found, expected in zip(*logs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_activation_checkpointing(model_cfg, teacher):
    cfg = model_cfg('upernet')
    path = teacher(cfg)
    results = []
    for with_cp in (False, True):
        cfg.backbone.with_cp = with_cp
        _, student, _ = pair(cfg, teacher_checkpoint=path)
        losses = losses_of(student, 'upernet')
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        results.append({name: p.grad for name, p in student.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, grad in results[0].items():
        torch.testing.assert_close(results[1][name], grad)


def test_the_same_loss_on_two_modules_is_added(model_cfg, teacher):
    cfg = model_cfg('retinanet')
    path, found = teacher(cfg), []
    for modules in (['neck'], ['backbone'], ['neck', 'backbone']):
        distill = [dict(type='PKDLoss', module=module) for module in modules]
        _, student, _ = pair(cfg, teacher_checkpoint=path, distill=distill)
        found.append(losses_of(student, 'retinanet')['distill.loss_pkd'])
    torch.testing.assert_close(found[2], found[0] + found[1])


def test_a_teacher_with_other_heads_and_strides(model_cfg, teacher):
    heads = ('roi_head.bbox_head.num_classes', 'roi_head.mask_head.num_classes')
    other = model_cfg('mask_rcnn', **dict.fromkeys(heads, 3))  # for features any classes do
    path = teacher(other, 'mask_rcnn.pth')
    cfg = model_cfg('retinanet')
    student = MODELS.build(cfg).train()
    learning = Distillation(other, path, [dict(type='PKDLoss', levels=4)])
    learning.attach(student)
    assert losses_of(student, 'retinanet')['distill.loss_pkd'] > 0
    images = torch.rand(2, 3, 64, 64)
    finest = [model.extract_feat(images)[0].shape[-1] for model in (student, learning.teacher)]
    assert finest == [64 // 8, 64 // 4]


def test_a_registered_model(model_cfg, teacher):
    cfg = model_cfg('classifier')
    path = teacher(cfg)
    model = dict(type='DistilledModel', student=cfg, teacher=cfg, teacher_checkpoint=path)
    torch.manual_seed(0)
    student = MODELS.build(model).train()
    alone, expected, _ = pair(cfg, teacher_checkpoint=path)
    assert type(student) is type(alone)
    assert list(student.state_dict()) == list(alone.state_dict())
    found, expected = losses_of(student, 'classifier'), losses_of(expected, 'classifier')
    torch.testing.assert_close(found, expected)


def train(learning, student):
    """Attach and compute losses."""
    learning.attach(student)
    losses_of(student, 'classifier')


@pytest.fixture
def refused(model_cfg, teacher):
    """Train with a teacher that does not fit; return the error."""

    def run(distill=None, file=None, **options):
        cfg, theirs = model_cfg('classifier'), model_cfg('classifier', **options)
        path = teacher(theirs) if file is None else file
        student = MODELS.build(cfg).train()
        with pytest.raises(UserError) as error:
            train(Distillation(theirs, path, distill), student)
        assert '\n' not in str(error.value)
        return str(error.value)

    return run


def test_a_teacher_without_checkpoint_is_refused(refused):
    assert 'no checkpoint' in refused(file='')


def test_the_student_itself_is_refused(model_cfg, teacher):
    cfg = model_cfg('classifier')
    path = teacher(cfg)
    student = MODELS.build(cfg).train()
    student.load_state_dict(torch.load(path)['state_dict'])
    Distillation(cfg, path).attach(student)
    with pytest.raises(UserError, match='weights of the student itself'):
        losses_of(student, 'classifier')


def test_logits_of_other_classes_are_refused(refused):
    assert "'head' gives (2, 3) in the student and (2, 4) in the teacher" in refused(num_classes=4)


@pytest.mark.parametrize('module', ['neck', 'head.cls9', 'head.loss_module'])
def test_modules_without_output_are_refused(module, refused):
    message = refused([dict(type='KLDivergence', module=module)])
    assert repr(module) in message
    assert 'set module' in message


def test_images_that_the_teacher_cannot_take_are_refused(refused):
    message = refused(dims=[8] * 6, strides=[2] * 5)
    assert 'cannot take images of shape (2, 3, 64, 64)' in message


def test_preprocessing_that_cannot_be_converted_is_refused(refused):
    assert 'cannot be converted' in refused(mean=[0.0] * 4, std=[1.0] * 4)
