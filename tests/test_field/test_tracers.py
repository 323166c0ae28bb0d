"""Tracing, export, compilation and feature extraction of the net, in both forms."""

import copy
import io
import pickle

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.feature_extraction import create_feature_extractor

from mmvanilla import VanillaNet, fuse
from mmvanilla.errors import UserError
from mmvanilla.models import SeriesActivation
from mmvanilla.models.cls_head import VanillaNetClsHead

NARROW = dict(dims=(8, 8, 12, 16, 24), strides=(1, 2, 2, 2))
IMAGES, OTHERS = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 96, 64)

pytestmark = pytest.mark.usefixtures('one_thread')
forms = pytest.mark.parametrize('deploy', [False, True])
options = pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(deploy=True),
        dict(with_cp=True),
        dict(arch=dict(NARROW, ada_pool=True), deploy=True),
    ],
    ids=['training', 'deploy', 'with_cp', 'ada'],
)


def build(trained, train=False, **options):
    torch.manual_seed(0)
    return trained(VanillaNet(**{'arch': NARROW, **options})).train(train)


def agree(mine, theirs, rtol=1e-4):
    assert len(mine) == len(theirs) == 4
    for a, b in zip(mine, theirs, strict=True):
        a, b = torch.as_tensor(a), torch.as_tensor(b).detach()
        assert a.shape == b.shape
        assert (a - b).norm() <= rtol * b.norm()


def loss(features):
    """A loss that batch norms do not make the same for all features."""
    waves = [torch.arange(f[0].numel(), dtype=f.dtype).sin().view(f.shape[1:]) for f in features]
    return sum((f * wave).mean() for f, wave in zip(features, waves, strict=True))


def step(net, call, images=IMAGES):
    net.zero_grad()
    loss(call(images)).backward()
    return [p.grad.clone() for p in net.parameters() if p.requires_grad]


@options
def test_jit_trace_saved_and_loaded(options, trained):
    net = build(trained, **options)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, IMAGES), file)
    file.seek(0)
    agree(torch.jit.load(file)(OTHERS), net(OTHERS))


def test_jit_trace_in_the_midst_of_deep_training(trained):
    net = build(trained)
    net.act_learn = 0.3
    traced = torch.jit.trace(net, IMAGES)
    agree(traced(OTHERS), net(OTHERS))


def test_jit_trace_of_a_training_net_trains_it(trained):
    net = build(trained, train=True, norm_eval=True)
    traced = torch.jit.trace(net, IMAGES)
    for mine, its in zip(step(net, traced), step(net, net), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)


@forms
def test_openvino_converts_by_example(deploy, trained):
    openvino = pytest.importorskip('openvino')
    net = build(trained, deploy=deploy)
    model = openvino.convert_model(net, example_input=IMAGES)
    compiled = openvino.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    agree(list(compiled(OTHERS.numpy()).values()), net(OTHERS))


@pytest.mark.parametrize(
    'dynamo', [False, pytest.param(True, marks=pytest.mark.slow)], ids=['legacy', 'dynamo']
)
@forms
def test_onnx_export(deploy, dynamo, trained, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    net, file = build(trained, deploy=deploy), str(tmp_path / 'net.onnx')
    torch.onnx.export(net, (IMAGES,), file, dynamo=dynamo)
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    outputs = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    agree(outputs, net(IMAGES))


@forms
def test_tensorboard_shows_the_graph(deploy, trained, tmp_path):
    tensorboard = pytest.importorskip('torch.utils.tensorboard', exc_type=ImportError)
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    net = build(trained, deploy=deploy)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(net, IMAGES)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    operators = [node.op for node in events.Graph().node]
    activations, convs = 5, 5 if deploy else 10
    assert sum('conv' in operator for operator in operators) == activations + convs
    assert not any('Python' in operator for operator in operators)


@pytest.mark.parametrize('strict', [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ('options', 'train'),
    [(dict(deploy=True), False), (dict(), False), (dict(with_cp=True), True)],
    ids=['deploy', 'eval', 'train'],
)
def test_torch_export_of_any_size(options, train, strict, trained):
    if not hasattr(getattr(torch.export, 'Dim', None), 'AUTO'):
        pytest.skip('this torch exports no free sizes')
    net = build(trained, train, **options)
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=(sizes,), strict=strict)
    operators = {str(n.target) for n in program.graph.nodes if n.op == 'call_function'}
    assert all(name.startswith(('aten.', '<built-in')) for name in operators), operators
    program = program.module()
    agree(program(OTHERS), copy.deepcopy(net)(OTHERS))


@pytest.mark.slow
@pytest.mark.parametrize('options', [dict(), dict(with_cp=True), dict(frozen_stages=2)])
def test_torch_compile_of_a_training_step(options, trained):
    net = build(trained, train=True, **options)
    other = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True)
    for mine, its in zip(step(net, compiled), step(other, other), strict=True):
        assert (mine - its).norm() <= 1e-3 * its.norm() + 1e-6
    for mine, its in zip(net.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)  # no batch counts twice
    mine, its = (step(net, call, OTHERS) for call in (compiled, net))  # shapes are dynamic now
    for a, b in zip(mine, its, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-6


def test_torch_compile_recomputes(trained):
    """The same as above without a C++ compiler at work."""
    net = build(trained, train=True, with_cp=True, out_indices=(0,))
    other = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    used = [p for p in net.parameters() if p.requires_grad]
    loss(compiled(IMAGES)).backward()
    loss(other(IMAGES)).backward()
    for mine, its in zip(used, other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    for mine, its in zip(net.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.slow
@forms
def test_torch_compile_of_inference(deploy, trained):
    net = build(trained, deploy=deploy)
    with torch.no_grad():
        agree(torch.compile(net, fullgraph=True)(IMAGES), net(IMAGES))


@options
def test_fx_symbolic_trace(options, trained):
    net = build(trained, **options)
    traced = pickle.loads(pickle.dumps(fx.symbolic_trace(net)))
    agree(traced(OTHERS), net(OTHERS))


def test_fx_trace_of_a_training_net_has_its_gradients(trained):
    net = build(trained, train=True)
    traced = fx.symbolic_trace(net)
    for mine, its in zip(step(traced, traced), step(net, net), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)


def test_fx_trace_of_a_training_net_follows_act_learn(trained):
    net = build(trained, train=True)
    traced = fx.symbolic_trace(net)
    for act_learn in (0.0, 0.4, 1.0):
        net.act_learn = act_learn
        agree(traced(OTHERS), net(OTHERS), 1e-3)


def test_fx_trace_of_the_head():
    for deploy in (False, True):
        head = VanillaNetClsHead(5, 24, deploy=deploy, loss=nn.CrossEntropyLoss()).eval()
        feats = (torch.randn(2, 24, 2, 3),)
        torch.testing.assert_close(fx.symbolic_trace(head)(feats), head(feats))


@forms
def test_torchvision_extracts_features(deploy, trained):
    net = build(trained, deploy=deploy)
    extractor = create_feature_extractor(net, {'stages.1': 'middle', 'stages.3.act': 'last'})
    features = extractor(OTHERS)
    torch.testing.assert_close(features['last'], net(OTHERS)[-1])
    assert features['middle'].shape == (2, 12, 12, 8)


@pytest.mark.parametrize(
    ('model', 'shape'),
    [
        (SeriesActivation(8, deploy=True), (2, 8, 9, 10)),
        (SeriesActivation(8).eval(), (2, 8, 9, 10)),
        (VanillaNet(NARROW, deploy=True).eval().stages[1], (2, 8, 9, 10)),
        (VanillaNet(NARROW).eval().stages[1], (2, 8, 9, 10)),
        (VanillaNet(dict(NARROW, ada_pool=True), deploy=True).eval().stages[1], (2, 8, 9, 10)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), SeriesActivation(8)).eval(), (2, 3, 9, 10)),
    ],
)
def test_jit_script_compiles_the_layers(model, shape):
    file, x = io.BytesIO(), torch.randn(shape)
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), model(x))


@forms
@pytest.mark.parametrize('wrap', [lambda net: net, nn.Sequential])
def test_jit_script_says_what_to_use(deploy, wrap):
    with pytest.raises(UserError, match=r'VanillaNet .*torch\.jit\.trace.*torch\.export'):
        torch.jit.script(wrap(VanillaNet(NARROW, deploy=deploy).eval()))


MAKERS = {
    'VanillaNet': lambda **options: VanillaNet(NARROW, **options),
    'SeriesActivation': lambda **options: SeriesActivation(3, **options),
    'VanillaNetClsHead': lambda **options: VanillaNetClsHead(
        5, 3, loss=nn.CrossEntropyLoss(), **options
    ),
}
makers = pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)


def last(module, x):
    out = module((x,) if isinstance(module, VanillaNetClsHead) else x)
    return out[-1] if isinstance(out, tuple) else out


@makers
@forms
@pytest.mark.parametrize('place', ['cpu', 'cuda'])
def test_without_memory(make, deploy, place, needs):
    """Fake tensors, also of a GPU that is not there, and meta tensors."""
    expected = last(make(deploy=deploy).eval(), IMAGES).shape

    def fake():
        with FakeTensorMode(), torch.device(place):
            nn.Conv2d(3, 4, 3)(torch.empty(IMAGES.shape))

    needs(fake)
    with FakeTensorMode(), torch.device(place):
        out = last(make(deploy=deploy).eval(), torch.empty(IMAGES.shape))
        assert out.shape == expected
        assert out.device.type == place
        if place == 'cpu' and not deploy:
            module = make(deploy=deploy)
            last(module, torch.empty(IMAGES.shape)).sum().backward()
            assert all(p.grad.shape == p.shape for p in module.parameters())
    with torch.device('meta'):
        module = make(deploy=deploy).eval()
        assert last(module, torch.empty(IMAGES.shape)).shape == expected
    real = make(deploy=deploy).eval()
    module.to_empty(device='cpu').load_state_dict(real.state_dict())
    assert torch.equal(last(module, IMAGES), last(real, IMAGES))
    assert not any(t.is_meta for t in make(deploy=deploy).state_dict().values())


def test_published_weights_assigned_to_a_meta_net(trained):
    """They have no act_learn, and may have no counters of batches."""
    net = build(trained)
    weights = {
        name: value
        for name, value in net.state_dict().items()
        if not name.endswith(('_act_learn', 'num_batches_tracked'))
    }
    with torch.device('meta'):
        empty = VanillaNet(NARROW).eval()
    empty.load_state_dict(weights, assign=True)
    assert empty.act_learn == 1
    agree(empty(IMAGES), net(IMAGES))
    empty.train()(IMAGES)
    assert empty.stem1[1].num_batches_tracked == 1


@pytest.mark.parametrize('mode', [FakeTensorMode, lambda: torch.device('meta')])
def test_fusing_weights_without_values_is_refused(mode):
    with mode():
        net = VanillaNet(NARROW)
        with pytest.raises(UserError, match='no values to fuse.*deploy=True'):
            fuse(nn.Sequential(net))
    assert not net.deploy
