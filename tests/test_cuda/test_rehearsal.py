"""Whole models on a simulated CUDA device, without a GPU; see ``pretended_cuda.py``.

Expected: results equal to the CPU's, no tensor on another device, no synchronization except in the
functions listed here, no cast to 32 bits in 16-bit inference and training except those listed here.
"""

import copy
import importlib
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from pretended_cuda import (
    FakeTensorMode,
    PretendedCUDA,
    PretendedTensor,
    pretended_graphs,
    try_it,
)
from torch import nn

from mmvanilla import VanillaNet, accelerate, fuse, safe_loading
from mmvanilla.datasets.shapes import make_shapes
from mmvanilla.deploy.accelerate.fast_layers import FusedActivation, PlainConv, PointwiseConv
from mmvanilla.mmcv_ops import ext
from mmvanilla.models import SeriesActivation

DATA = Path(__file__).parents[1] / 'data'
KINDS = ['classifier', 'mask_rcnn', 'retinanet', 'upernet']
SIZE = 96
# Functions where the host waits: the number of boxes left by NMS is a shape.
WAITS = {('nms.py', 'nms')}
# Functions that cast to float32: mmcv's operators, and the outputs of accelerated modules.
UPCASTS = {('common.py', 'at_least_float32'), ('nms.py', 'nms')}
LEAVING = {
    ('accelerate.py', '<genexpr>'),
    ('cuda_graphs.py', '<genexpr>'),
    ('low_precision.py', 'cast'),
}


# Compiled operators access memory, and the simulated memory is the CPU's.
pytestmark = pytest.mark.skipif(
    importlib.import_module('mmcv._ext') is not ext, reason='mmcv is compiled'
)


@pytest.fixture(autouse=True)
def pretends(needs):
    needs(try_it)


def convolve(dtype):
    """Train a convolution on the CPU, where older versions of torch lack some dtypes."""
    nn.Conv2d(3, 4, 1).to(dtype)(torch.zeros(1, 3, 2, 2, dtype=dtype)).sum().backward()


scales = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'),
    reason=f'torch {torch.__version__} scales no gradients on the CPU',
)


def places(events, kind=None):
    """Return files and functions of events: one kind, or all except upcasts."""
    return {
        (Path(event.file).name, event.function)
        for event in events
        if (event.kind == kind if kind else event.kind != 'upcast')
    }


def make_model(kind, build):
    if kind != 'classifier':
        return build(kind)
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(DATA / 'tiny_imagenet.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def make_batch(kind, count=2):
    """Return annotated images as a data loader does."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, SIZE, SIZE)
    images = [torch.randint(0, 256, shape, generator=generator).byte() for _ in range(count)]
    sizes = dict(img_shape=shape[1:], ori_shape=shape[1:], pad_shape=shape[1:])
    samples = [make_sample(kind, i, sizes) for i in range(count)]
    return dict(inputs=images, data_samples=samples)


def make_sample(kind, index, sizes):
    if kind == 'classifier':
        from mmpretrain.structures import DataSample

        return DataSample(metainfo=sizes).set_gt_label(index)
    if kind == 'upernet':
        from mmseg.structures import SegDataSample

        labels = torch.arange(SIZE * SIZE).view(1, SIZE, SIZE) // 1000 % 3
        return SegDataSample(metainfo=sizes, gt_sem_seg=PixelData(data=labels))
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = torch.tensor([[5.0, 5, 50, 60], [30, 20, 80, 80]])
    masks = np.zeros((2, SIZE, SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    objects = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1]), masks=BitmapMasks(masks, SIZE, SIZE)
    )
    sizes = dict(sizes, img_id=index, scale_factor=(1.0, 1.0), batch_input_shape=(SIZE, SIZE))
    return DetDataSample(metainfo=sizes, gt_instances=objects)


def train_once(model, kind, wrap=OptimWrapper, **options):
    """Train one step; return its losses."""
    optimizer = wrap(optimizer=torch.optim.SGD(model.parameters(), 0.01), **options)
    torch.manual_seed(0)
    losses = model.train().train_step(make_batch(kind), optimizer)
    return {name: value.detach() for name, value in losses.items()}


def on_the_cpu(values):
    return {name: value.detach().cpu() for name, value in values.items()}


def assert_on_cuda(model):
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.is_cuda, name


@pytest.mark.parametrize('kind', KINDS)
def test_a_training_step_is_that_of_the_cpu(kind, build):
    here = make_model(kind, build)
    here.backbone.act_learn = 0.5 if kind == 'retinanet' else 1.0
    there = copy.deepcopy(here)
    expected = train_once(here, kind)
    with PretendedCUDA() as cuda:
        averaged = ExponentialMovingAverage(there.to('cuda'), momentum=0.1, update_buffers=True)
        grads = []
        for parameter in there.backbone.parameters():
            parameter.register_hook(grads.append)
        cuda.events.clear()
        losses = train_once(there, kind)
        averaged.update_parameters(there)
        assert places(cuda.ours) <= WAITS
        assert_on_cuda(there)
        assert_on_cuda(averaged.module)
        assert len(grads) == len([*there.backbone.parameters()])
        assert all(grad.is_cuda for grad in grads)
        losses, state = on_the_cpu(losses), on_the_cpu(there.state_dict())
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, here.state_dict(), rtol=1e-3, atol=1e-4)


@scales
@pytest.mark.parametrize('dtype', ['float16', pytest.param('bfloat16', marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', KINDS)
def test_a_training_step_in_mixed_precision(kind, dtype, build, needs):
    needs(lambda: convolve(getattr(torch, dtype)))
    model, seen = make_model(kind, build), []
    scaled = dict(loss_scale='dynamic') if dtype == 'float16' else dict(loss_scale=1.0)
    with (
        PretendedCUDA() as cuda,
        patch('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True),
        patch('mmengine.runner.amp.get_device', lambda: 'cuda'),
    ):
        model.to('cuda')
        cuda.events.clear()
        for module in model.backbone.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | SeriesActivation):
                module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        losses = train_once(model, kind, AmpOptimWrapper, dtype=dtype, **scaled)
        assert places(cuda.ours) <= WAITS
        assert places(cuda.ours, 'upcast') <= UPCASTS
        assert_on_cuda(model)
        assert all(value.isfinite().all() for value in losses.values())
    assert {*seen} == {getattr(torch, dtype)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def found(results):
    """Return the predictions of a model as tensors."""
    tensors = []
    for sample in results:
        if 'pred_sem_seg' in sample:
            tensors += [sample.seg_logits.data]
        elif 'pred_score' in sample:
            tensors += [sample.pred_score]
        else:
            objects = sample.pred_instances
            tensors += [objects.bboxes, objects.scores, objects.labels]
    return [tensor.cpu() for tensor in tensors]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('form', [pytest.param('training', marks=pytest.mark.slow), 'fused'])
def test_predictions_are_equal_to_those_of_the_cpu(kind, form, build, trained):
    here = trained(make_model(kind, build)).eval()
    there = copy.deepcopy(here)
    with torch.no_grad():
        expected = found(here.test_step(make_batch(kind)))
        with PretendedCUDA() as cuda:
            there.to('cuda')
            if form == 'fused':
                fuse(there)
                assert_on_cuda(there)
            cuda.events.clear()
            results = there.test_step(make_batch(kind))
            assert places(cuda.ours) <= WAITS
            assert not places(cuda.ours, 'upcast')
            results = found(results)
    torch.testing.assert_close(results, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ('dtype', 'graph'),
    [
        pytest.param(torch.float32, False, marks=pytest.mark.slow),
        (torch.float32, True),
        pytest.param(torch.float16, False, marks=pytest.mark.slow),
        (torch.float16, True),
        pytest.param(torch.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize('kind', KINDS)
def test_an_accelerated_model(kind, dtype, graph, build, trained, needs):
    with torch.enable_grad():
        needs(lambda: convolve(dtype))
    here = trained(make_model(kind, build)).eval()
    there, features, seen = copy.deepcopy(here), [], []
    fuse(here).backbone.register_forward_hook(lambda module, args, out: features.append(out))
    here.test_step(make_batch(kind))
    fast = PointwiseConv | PlainConv | FusedActivation
    with PretendedCUDA() as cuda, pretended_graphs():
        accelerate(there.to('cuda'), dtype, cuda_graph=graph)
        assert_on_cuda(there)
        net = there.backbone
        net.register_forward_hook(lambda module, args, out: features.append(out))
        for module in net.modules():
            if isinstance(module, fast):
                module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        cuda.events.clear()
        for _ in range(3):  # an image of a new size; one captured; one replayed
            there.test_step(make_batch(kind))
        assert places(cuda.ours) <= WAITS
        assert places(cuda.ours, 'upcast') <= UPCASTS | LEAVING
        assert {*seen} == {dtype}
        assert all(level.is_cuda and level.dtype == torch.float32 for level in features[-1])
        if graph:
            (captured,) = net.forward.run.graphs.values()
            assert captured[0].steps
        expected, *results = [[level.cpu() for level in levels] for levels in features]
    bound = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    for levels in results:
        for mine, its in zip(levels, expected, strict=True):
            assert (mine - its).norm() <= bound * its.norm()


@scales
def test_a_whole_run(tmp_path, monkeypatch, needs):
    """Trained deep in 16 bits, averaged, validated as a fused copy, saved: what the hooks do."""
    needs(lambda: convolve(torch.float16))
    make_shapes(tmp_path / 'data/shapes', train=4, val=2, size=64)
    cfg = Config.fromfile(DATA / 'tiny_shapes.py')
    monkeypatch.chdir(tmp_path)
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].update(num_workers=0)
    cfg.merge_from_dict({'train_cfg.val_interval': 1, 'custom_hooks.2.end': 2})
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    cfg.work_dir = 'work'
    with (
        safe_loading(),
        PretendedCUDA() as cuda,
        patch('mmengine.runner.runner.get_device', lambda: 'cuda'),
        patch('mmengine.runner.runner.collect_env', dict),
        patch('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True),
        patch('mmengine.runner.amp.get_device', lambda: 'cuda'),
    ):
        runner = Runner.from_cfg(cfg)
        runner.train()
        assert_on_cuda(runner.model)
    done = Counter((event.function, event.kind) for event in cuda.ours)
    # In training one look at the losses a step; the rest belongs to fusing a copy to validate.
    steps = 4
    assert runner.iter == steps
    assert done.pop(('after_train_iter', 'copied to the CPU')) == steps
    waits = {function for function, kind in done if kind in ('waits', 'copied to the CPU')}
    fusing = {'act_learn', 'refresh_act_learn', 'check_bn', 'parameters_like', 'same_outputs'}
    assert waits <= {*fusing, 'nms'}
    state = torch.load('work/iter_4.pth', weights_only=True)
    assert all(type(value) is torch.Tensor for value in state['state_dict'].values())


@pytest.fixture
def fake_cuda():
    """Return the device of a fake tensor, where autocast behaves as on a GPU."""
    with (
        FakeTensorMode(),
        torch.device('cuda'),
        patch('torch.cuda.amp.common.amp_definitely_not_available', lambda: False),
        patch('torch.cuda.is_bf16_supported', lambda *_: True),
    ):
        yield


@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('act_learn', [0.5, 1.0])
def test_the_full_net_under_the_autocast_of_cuda(act_learn, dtype):
    """Autocast has CUDA's operator lists here; a backward pass needs a GPU."""
    net, seen = VanillaNet('13', act_num=4).train(), []
    net.act_learn = act_learn
    for name, module in net.named_modules():
        if not [*module.children()]:
            module.register_forward_hook(lambda m, args, out, name=name: seen.append((name, out)))
    with torch.autocast('cuda', dtype):
        levels = net(torch.randn(1, 3, 800, 1280))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (512, 200, 320),
        (1024, 100, 160),
        (2048, 50, 80),
        (4096, 25, 40),
    ]
    wrong = [name for name, out in seen if out.dtype != dtype or out.device.type != 'cuda']
    assert len(seen) > 60
    assert not wrong


@torch.no_grad()
@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_the_full_accelerated_net(dtype):
    """Fake weights cannot be fused or compared, so the net is built in deploy form."""
    net = VanillaNet('13', act_num=4, deploy=True).eval()
    image = torch.randn(1, 3, 800, 1280)
    expected, seen = net(image), []
    module = 'mmvanilla.deploy.accelerate.accelerate'
    with patch(f'{module}.check_range'), patch(f'{module}._check_layers'):
        accelerate(net, dtype)
    kinds = FusedActivation | PointwiseConv | PlainConv
    fast = [module for module in net.modules() if isinstance(module, kinds)]
    assert len(fast) == 2 * 12
    for module in fast:
        module.register_forward_hook(lambda module, args, out: seen.append(out))
    for mine, its in zip(net(image), expected, strict=True):
        assert (mine.shape, mine.dtype, mine.device) == (its.shape, its.dtype, its.device)
    assert {(out.dtype, out.device.type) for out in seen} == {(dtype, 'cuda')}
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)


# Layers with one fault each, which the simulation must find.


class Planted(nn.Module):
    """A convolution with a mistake after it."""

    def __init__(self, mistake):
        super().__init__()
        self.conv, self.mistake = nn.Conv2d(3, 4, 1), mistake

    def forward(self, x):
        return self.mistake(self.conv(x))


def left_on_the_cpu(x):
    return x * torch.linspace(0, 1, x.shape[-1])


def made_on_the_cpu(x):
    return x * torch.linspace(0, 1, x.shape[-1]).to(x.device)


def read_on_the_host(x):
    return x / x.abs().max().item()


def decided_on_the_host(x):
    return x if x.sum() > 0 else -x


def masked(x):
    return x + x[x > 0].mean()


def brought_to_the_host(x):
    return x + float(x.detach().cpu().numpy().mean())


def listed(x):
    return x * x.mean((0, 2, 3)).tolist()[0]


def upcast(x):
    return x.float() * 2


def promoted(x):
    return x * torch.ones(x.shape, device=x.device)


def plant(mistake, dtype=torch.float32):
    """Rehearse a mistake as the tests above rehearse the package; return what is found."""
    net = Planted(mistake)
    with PretendedCUDA(also=__file__) as cuda:
        net.to('cuda')
        image = torch.randn(2, 3, 8, 8, device='cuda')
        cuda.events.clear()
        with torch.autocast('cuda', torch.float16, enabled=dtype == torch.float16):
            net(image)
        return places(cuda.ours), places(cuda.ours, 'upcast'), cuda.ours


@pytest.mark.parametrize(
    ('mistake', 'kind'),
    [
        (made_on_the_cpu, 'made on the CPU'),
        (made_on_the_cpu, 'copied from the CPU'),
        (read_on_the_host, 'waits'),
        (decided_on_the_host, 'waits'),
        (masked, 'waits'),
        (brought_to_the_host, 'copied to the CPU'),
        (listed, 'copied to the CPU'),
    ],
)
def test_the_simulation_finds_a_planted_mistake(mistake, kind):
    found, _, events = plant(mistake)
    assert found == {(Path(__file__).name, mistake.__name__)}
    (event,) = [event for event in events if event.kind == kind]
    assert f'{kind}: aten.' in str(event)


def test_the_simulation_refuses_a_tensor_left_on_the_cpu():
    with pytest.raises(RuntimeError, match='cuda:0 and on cpu, expected one device'):
        plant(left_on_the_cpu)


@pytest.mark.parametrize('mistake', [upcast, promoted])
def test_the_simulation_finds_a_planted_upcast(mistake):
    assert plant(mistake, torch.float16)[1] == {(Path(__file__).name, mistake.__name__)}


def test_no_mistake_is_found_in_a_good_module():
    found, upcasts, _ = plant(nn.ReLU(), torch.float16)
    assert not found
    assert not upcasts


@pytest.mark.parametrize('mistake', [read_on_the_host, made_on_the_cpu])
def test_a_mistake_planted_in_the_package_is_found(mistake, monkeypatch, build):
    """The checks of a whole model end with it."""
    forward = SeriesActivation.forward
    monkeypatch.setattr(SeriesActivation, 'forward', lambda self, x: mistake(forward(self, x)))
    monkeypatch.setattr('pretended_cuda.PACKAGE', Path(__file__))
    with pytest.raises(AssertionError, match=mistake.__name__):
        test_a_training_step_is_that_of_the_cpu('retinanet', build)


def test_a_capture_ends_where_the_host_would_wait():
    with PretendedCUDA(), pretended_graphs():
        image = torch.randn(1, 3, 8, 8, device='cuda')
        capture = torch.cuda.graph(torch.cuda.CUDAGraph(), pool=None, stream=None)
        with pytest.raises(RuntimeError, match='not permitted when stream is capturing'), capture:
            read_on_the_host(image)


def test_the_device_is_gone_afterwards():
    with PretendedCUDA():
        assert type(torch.zeros(2, device='cuda')) is PretendedTensor
    assert torch.cuda.is_available() is (torch.cuda.device_count() > 0)
    assert type(torch.zeros(2).to(torch.float16)) is torch.Tensor
    assert F.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)).device.type == 'cpu'
