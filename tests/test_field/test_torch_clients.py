"""PyTorch's tools around a net: transforms, copies, wrappers, hooks, unusual inputs."""

import copy
import multiprocessing
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import autograd, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils import checkpoint

from mmvanilla import VanillaNet, fuse
from mmvanilla.models import SeriesActivation
from mmvanilla.ops import depthwise_conv
from mmvanilla.ops.depthwise_conv import depthwise_conv2d

NARROW = dict(dims=(8, 8, 12, 16, 24), strides=(1, 2, 2, 2))

pytestmark = pytest.mark.usefixtures('one_thread')
forms = pytest.mark.parametrize('deploy', [False, True])


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def make(train=True, **options):
    torch.manual_seed(0)
    return VanillaNet(**{'arch': NARROW, **options}).train(train)


def loss(features):
    """A loss that batch norms do not make the same for all features."""
    waves = [torch.arange(f[0].numel(), dtype=f.dtype).sin().view(f.shape[1:]) for f in features]
    return sum((f * wave).mean() for f, wave in zip(features, waves, strict=True))


def gradients(net, images, call=None):
    net.zero_grad()
    loss((call or net)(images)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.requires_grad}


def close(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (mine[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


# The operator.


def library(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, 5, 4), (3, 1, 3, 3), (3,))
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize('needed', [(0, 1, 2), (1,), (0, 1), (1, 2)])
def test_first_and_second_derivatives_of_the_operator(inputs, needed):
    for i in needed:
        inputs[i].requires_grad_()
    assert autograd.gradcheck(
        depthwise_conv2d, inputs, check_forward_ad=True, check_batched_grad=True
    )
    assert autograd.gradgradcheck(depthwise_conv2d, inputs, check_fwd_over_rev=True)


def jvp_of_images(f, x, w, b):
    w.requires_grad_()
    return jvp(lambda x: f(x, w, b), (x,), (x + 1,))


TRANSFORMS = {
    'grad': lambda f, x, w, b: grad(f, (0, 1, 2))(x, w, b),
    'hessian': lambda f, x, w, b: hessian(f, (0, 1, 2))(x, w, b),
    'jacrev of jacrev': lambda f, x, w, b: jacrev(jacrev(f, (0, 1)), (0, 1))(x, w, b),
    'jacfwd': lambda f, x, w, b: jacfwd(f, (0, 1, 2))(x, w, b),
    'jvp': lambda f, x, w, b: jvp(f, (x, w, b), (x + 1, w + 1, b + 1)),
    'jvp of images': jvp_of_images,
    'vmap over weights': lambda f, x, w, b: vmap(f, (None, 0, 0))(
        x, torch.stack([w, 2 * w]).requires_grad_(), torch.stack([b, 2 * b])
    ),
    'gradient of every sample': lambda f, x, w, b: vmap(
        grad(lambda w, b, x: f(x[None], w, b), (0, 1)), (None, None, 0)
    )(w, b, x),
    'gradients of an ensemble': lambda f, x, w, b: vmap(grad(f, (0, 1, 2)), (None, 0, None))(
        x, torch.stack([w, 2 * w]), b
    ),
}


@pytest.mark.parametrize('transform', TRANSFORMS.values(), ids=TRANSFORMS)
def test_torch_func_of_the_operator(inputs, transform):
    results = [
        transform(lambda *inputs, op=op: op(*inputs).pow(3).sum(), *inputs)
        for op in (depthwise_conv2d, library)
    ]
    torch.testing.assert_close(*results)


# Transforms of the net.


@pytest.mark.parametrize('options', [dict(train=False), dict(), dict(norm_eval=True)])
def test_grad_through_functional_call(images, options):
    net = make(**options)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}

    def objective(parameters, buffers):
        return loss(functional_call(net, (parameters, buffers), (images,)))

    close(grad(objective)(parameters, buffers), gradients(net, images))


def test_grad_through_a_net_whose_buffers_stay(images):
    net = make(train=False)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    mine = grad(lambda parameters: loss(functional_call(net, parameters, (images,))))(parameters)
    close(mine, gradients(net, images))


def test_gradient_of_every_image(images):
    net = make(train=False)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def objective(parameters, image):
        return loss(functional_call(net, parameters, (image[None],)))

    mine = vmap(grad(objective), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        close({name: g[i] for name, g in mine.items()}, gradients(net, image[None]))


@forms
def test_an_ensemble_by_vmap(images, deploy):
    nets = [make(train=False, deploy=deploy) for _ in range(2)]
    for net in nets:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
    empty = copy.deepcopy(nets[0]).to('meta')
    state = stack_module_state(nets)
    outputs = vmap(lambda *state: functional_call(empty, state, (images,)))(*state)
    for i, net in enumerate(nets):
        for mine, its in zip(outputs, net(images), strict=True):
            torch.testing.assert_close(mine[i], its, rtol=1e-3, atol=1e-4)


@forms
def test_directional_derivative(images, deploy):
    net = make(train=False, deploy=deploy).double()
    image, direction = images[:1].double(), torch.randn(1, 3, 64, 64).double()
    _, tangent = jvp(lambda x: net(x)[-1], (image,), (direction,))
    step = 1e-6 * direction
    quotient = (net(image + step)[-1] - net(image - step)[-1]) / 2e-6
    assert (tangent - quotient).norm() < 1e-5 * quotient.norm()
    with forward_ad.dual_level():
        dual = net(forward_ad.make_dual(image, direction))[-1]
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


def test_gradient_penalty(images):
    """Its gradient is that of a difference quotient of the penalty."""
    net = make(norm_eval=True).double()
    images = images.double().requires_grad_()

    def penalty():
        (slope,) = autograd.grad(loss(net(images)), images, create_graph=True)
        return 1e4 * slope.square().sum()

    weight = net.stages[1].act.weight
    direction = torch.randn_like(weight)
    (mine,) = autograd.grad(penalty(), weight)
    values = []
    for sign in (1, -1):
        weight.data += sign * 1e-6 * direction
        values.append(penalty().item())
        weight.data -= sign * 1e-6 * direction
    quotient = (values[0] - values[1]) / 2e-6
    assert (mine * direction).sum().item() == pytest.approx(quotient, rel=1e-4)


def test_a_second_backward_pass_of_what_is_recomputed_is_refused(images):
    """With PyTorch's error, and batch norms stay as they were."""
    net = make(with_cp=True)
    result = loss(net(images))
    result.backward(retain_graph=True)
    if hasattr(checkpoint, 'create_selective_checkpoint_contexts'):  # since 2.4; without, it may
        with pytest.raises(RuntimeError, match='backward an extra time'):
            result.backward()
    else:
        result.backward()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


# Copies, files and processes.


@pytest.mark.parametrize('way', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize(('act_learn', 'train'), [(1, True), (0.3, True), (0.3, False)])
def test_a_copy_in_the_midst_of_deep_training(images, way, act_learn, train):
    net = make(train)
    net.act_learn = act_learn
    gradients(net, images)
    other = way(net)
    assert other.act_learn == pytest.approx(act_learn)
    close(gradients(other, images), gradients(net, images))
    other.act_learn = 0.7
    assert net.act_learn == pytest.approx(act_learn)


def test_a_copy_of_a_fused_net(images, trained):
    net = fuse(trained(make(train=False)))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(map(torch.equal, other(images), net(images)))


def infer(net, images, connection):
    torch.set_num_threads(1)
    with torch.no_grad():
        connection.send([f.numpy() for f in net(images)])


def test_a_spawned_process_gets_the_net(images, trained):
    net = trained(make(train=False))
    net.act_learn = 0.3
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context('spawn')
    process = context.Process(target=infer, args=(net, images, sender))
    process.start()
    assert receiver.poll(300)  # seconds; imports are slow on a busy machine
    outputs = receiver.recv()
    process.join(60)
    assert process.exitcode == 0
    for mine, its in zip(outputs, net(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), its.detach())


@forms
def test_state_dict_assigned(images, deploy, trained):
    net = trained(make(train=False, deploy=deploy))
    other = make(train=False, deploy=deploy)
    other.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    assert all(map(torch.equal, other(images), net(images)))


# Wrappers.


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ('options', 'wrapper'),
    [
        (dict(), dict(static_graph=True)),
        (dict(with_cp=True), dict(static_graph=True)),
        (dict(with_cp=True), dict()),
        (dict(frozen_stages=2), dict(find_unused_parameters=True)),
        (dict(frozen_stages=2, with_cp=True), dict(static_graph=True)),
        (dict(out_indices=(0, 1)), dict(static_graph=True)),
        (dict(out_indices=(0, 1)), dict()),
    ],
    ids=lambda value: ' '.join(value) or 'no options',
)
def test_ddp(images, one_process, options, wrapper):
    net, other = make(**options), make(**options)
    wrapped = DistributedDataParallel(net, **wrapper)
    for act_learn in (0.3, 1.0):
        net.act_learn = other.act_learn = act_learn
        other.zero_grad()
        net.zero_grad()
        loss(wrapped(images)).backward()
        loss(other(images)).backward()
        used = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
        mine = dict(net.named_parameters())
        close({name: mine[name].grad for name in used}, used)


@pytest.mark.parametrize('with_cp', [False, True])
def test_accumulated_gradients_are_those_of_one_batch(images, with_cp):
    net = make(norm_eval=True, with_cp=with_cp)
    whole = gradients(net, images)
    net.zero_grad()
    for image in images:
        (loss(net(image[None])) / 2).backward()
    close({name: p.grad for name, p in net.named_parameters()}, whole)


def test_averaged_model(images):
    net = make()
    net.act_learn = 0.3
    averaged = AveragedModel(net, use_buffers=True)
    nn.init.ones_(net.stages[0].act.weight)
    net.act_learn = 0.5
    averaged.update_parameters(net)
    net.act_learn = 1.0
    averaged.update_parameters(net)
    assert averaged.module.act_learn == pytest.approx(0.75)
    torch.testing.assert_close(averaged.module.stages[0].act.weight, net.stages[0].act.weight)
    expected = make(train=False)
    expected.load_state_dict(averaged.module.state_dict())
    for mine, its in zip(averaged.eval()(images), expected(images), strict=True):
        torch.testing.assert_close(mine, its)


WAYS = {
    'weight_norm': parametrizations.weight_norm,
    'spectral_norm': parametrizations.spectral_norm,
    'pruned': lambda module: prune.l1_unstructured(module, 'weight', amount=0.5),
    'pruned twice': lambda module: prune.random_unstructured(
        prune.l1_unstructured(module, 'weight', amount=0.5), 'weight', amount=0.5
    ),
    'old weight_norm': nn.utils.weight_norm,
    'old spectral_norm': nn.utils.spectral_norm,
}


@pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
@pytest.mark.parametrize('name', ['stem2.0', 'stages.1.conv1.0', 'stages.1.act'])
def test_weights_that_are_computed(images, way, name, trained):
    """They are trained, and fused as they are, also right after a step."""

    def stepped():
        net = trained(make())
        way(net.get_submodule(name))
        found = gradients(net, images)
        names = [n for n in found if n.startswith(f'{name}.') and 'weight' in n]
        assert names
        assert all(found[n].any() for n in names)
        torch.optim.Adam(net.parameters(), 0.02).step()
        return net.eval()

    net, expected = stepped(), stepped()(images)
    fuse(net)
    assert isinstance(net.stages[1].act.weight, nn.Parameter)
    for mine, its in zip(net(images), expected, strict=True):
        assert (mine - its).norm() <= 1e-4 * its.norm()
    assert net.state_dict().keys() == make(deploy=True).state_dict().keys()


# Hooks.


@pytest.mark.parametrize('with_cp', [False, True])
def test_grad_cam(images, with_cp):
    """Features and their gradients by hooks are those that autograd gives."""
    net = make(train=False, with_cp=with_cp)
    kept = {}
    target = net.stages[-1].act
    target.register_forward_hook(lambda _module, _inputs, out: kept.update(features=out))
    target.register_full_backward_hook(lambda _module, _into, out: kept.update(gradient=out[0]))
    out = net(images)[-1]
    out.square().mean().backward()
    torch.testing.assert_close(kept['features'], out)
    torch.testing.assert_close(kept['gradient'], 2 * out / out.numel())


def test_backward_hooks_everywhere(images):
    """Also between a rectifier in place and the layer after it."""
    net = make()
    expected = gradients(net, images)
    seen = set()
    for name, module in net.named_modules():
        module.register_full_backward_pre_hook(lambda *_, name=name: seen.add(name))
        module.register_full_backward_hook(lambda *_, name=name: seen.add(name))
    close(gradients(net, images), expected)
    assert {'', 'stem2.2', 'stages.3.act', 'stages.0.conv1.0'} <= seen


def test_activation_in_place_is_not():
    act = SeriesActivation(4, inplace=True)
    act.register_full_backward_hook(lambda _module, into, _out: [2 * into[0]])
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    before = x.detach().clone()
    (doubled,) = autograd.grad(act(x).square().sum(), x)
    assert torch.equal(x, before)
    (copied,) = autograd.grad(copy.deepcopy(act).eval().train()(x).square().sum(), x)
    torch.testing.assert_close(doubled, copied)
    act._backward_hooks.clear()
    (single,) = autograd.grad(act(x).square().sum(), x)
    torch.testing.assert_close(doubled, 2 * single)


# Types, modes and odd inputs.


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@forms
def test_other_types(images, dtype, deploy, trained, needs):
    needs(lambda: nn.Conv2d(3, 4, 3).to(dtype)(images.to(dtype)))
    net = trained(make(train=False, deploy=deploy))
    exact = copy.deepcopy(net).double()(images.double())
    outputs = net.to(dtype)(images.to(dtype))
    tolerance = 30 * torch.finfo(dtype).eps
    for mine, its in zip(outputs, exact, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - its).norm() < tolerance * its.norm()


def test_training_in_double_precision_is_that_exact(images, monkeypatch):
    net = make().double()
    mine = gradients(net, images.double())
    monkeypatch.setattr(depthwise_conv, '_trains_on_cpu', lambda *_: False)
    for name, its in gradients(net, images.double()).items():
        assert (mine[name] - its).norm() <= 1e-9 * its.norm() + 1e-12, name


@forms
def test_built_in_inference_mode(images, deploy):
    with torch.inference_mode():
        net = make(train=False, deploy=deploy)
        outputs = net(images)
    with torch.no_grad():
        for mine, its in zip(net(images), outputs, strict=True):
            torch.testing.assert_close(mine, its)
    with pytest.raises(RuntimeError, match='Inference tensors'):
        net(images)
    copied = make(train=False, deploy=deploy)
    copied.load_state_dict(net.state_dict())
    assert len(gradients(copied, images)) == len(list(net.parameters()))


@pytest.mark.parametrize('layers', ['act', 'conv', 'norm'])
def test_some_parameters_frozen(images, layers):
    net = make()
    every = gradients(net, images)
    frozen = {
        'act': lambda name: '.act.' in name,
        'conv': lambda name: '.conv' in name,
        'norm': lambda name: '.bn.' in name,
    }[layers]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not frozen(name))
    some = gradients(net, images)
    close(some, {name: value for name, value in every.items() if not frozen(name)})
    assert 0 < len(some) < len(every)


@pytest.mark.parametrize(
    'view',
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], 3)[..., ::2].flip(3).flip(3),
        lambda x: F.pad(x, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
    ],
    ids=['channels_last', 'transposed', 'strided', 'cropped'],
)
@pytest.mark.parametrize('train', [False, True])
def test_any_layout_of_the_images(images, view, train):
    net = make(train)
    same = view(images)
    close(gradients(net, same), gradients(net, same.contiguous()))


def test_a_net_in_channels_last(images):
    net = make()
    expected = gradients(net, images)
    close(gradients(net.to(memory_format=torch.channels_last), images), expected)


@pytest.mark.parametrize('options', [dict(), dict(with_cp=True), dict(norm_eval=True)])
def test_an_empty_batch(options):
    """As a step of a detector without a proposal."""
    net = make(**options)
    if not options.get('norm_eval'):
        net.eval()
    features = net(torch.empty(0, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [
        (0, 8, 16, 16),
        (0, 12, 8, 8),
        (0, 16, 4, 4),
        (0, 24, 2, 2),
    ]
    sum(f.sum() for f in features).backward()
    assert all(not p.grad.any() for p in net.parameters())


def test_deterministic_algorithms(images):
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (gradients(make(), images) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize('with_cp', [False, True])
def test_anomaly_mode(images, with_cp):
    net = make(with_cp=with_cp)
    expected = gradients(make(), images)
    with autograd.detect_anomaly(check_nan=True):
        close(gradients(net, images), expected)
        with pytest.raises(RuntimeError, match='nan'):
            gradients(net, images * float('nan'))
