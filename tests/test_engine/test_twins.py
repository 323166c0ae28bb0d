"""Fused twins compute in eval mode and change nothing else in a model."""

import copy
import io

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.utils import parametrize, prune

from mmvanilla import VanillaNet, fuse
from mmvanilla.engine.twins import add_twins, drop_twins, fused_weights
from mmvanilla.errors import UserError
from mmvanilla.models import SeriesActivation

ARCH = dict(dims=[4, 6, 8], strides=[2, 1])


def vanillanet(**options):
    return VanillaNet(ARCH, out_indices=[0, 1], **options)


def activations():
    return nn.Sequential(SeriesActivation(3), nn.Conv2d(3, 5, 1), SeriesActivation(5))


def activation_in_a_neck():
    act = dict(type='SeriesActivation', channels=5)
    return nn.Sequential(ConvModule(3, 5, 3, norm_cfg=dict(type='BN'), act_cfg=act))


def frozen():
    return vanillanet(frozen_stages=1, norm_eval=True, with_cp=True)


MODELS = [vanillanet, frozen, activations, activation_in_a_neck]


def outputs(model, images):
    found = model(images)
    return found if isinstance(found, tuple) else (found,)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('build', MODELS)
def test_a_twin_computes_what_the_fused_net_computes_until_training_goes_on(build, trained, images):
    model = nn.ModuleDict(dict(net=trained(build())))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    parameters = list(model.parameters())
    expected = outputs(fuse(copy.deepcopy(model)).net.eval(), images)
    unfused = outputs(copy.deepcopy(model).net.eval(), images)
    with torch.no_grad():
        add_twins(model)
        found = outputs(model.net.eval(), images)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(found, unfused, strict=True))
        assert list(model.state_dict()) == list(before)
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        again = outputs(copy.deepcopy(model).net, images)
        assert all(torch.equal(a, b) for a, b in zip(again, unfused, strict=True))
        model.train().eval()
        found = outputs(model.net, images)
        assert all(torch.equal(a, b) for a, b in zip(found, unfused, strict=True))
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert flags == {name: value.requires_grad for name, value in model.named_parameters()}


def test_new_weights_drop_the_twin(trained, images):
    net, other = trained(vanillanet()).eval(), trained(vanillanet(), seed=1).eval()
    add_twins(net)
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(images)[0], other(images)[0])


def test_pickles_hold_no_twin(trained):
    net, file = trained(vanillanet()), io.BytesIO()
    add_twins(net)
    torch.save(net, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).twin is None
    assert net.twin is not None


def test_a_module_that_cannot_be_fused_leaves_all_in_training_form(trained):
    model = nn.ModuleDict(dict(one=trained(vanillanet()), two=trained(vanillanet())))
    model.two.act_learn = 0.5
    with pytest.raises(UserError, match='act_learn of two is 0.5'):
        add_twins(model)
    assert model.one.twin is None


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize('change', ['parametrized', 'pruned'])
def test_weights_that_are_computed_stay_computed(change, trained, images):
    act = trained(SeriesActivation(3))
    if change == 'pruned':
        prune.l1_unstructured(act, 'weight', 0.5)
        act.weight_orig.data += 1  # as an optimizer does; the pruned weight is older now
    else:
        parametrize.register_parametrization(act, 'weight', Double())
    before = {name: value.clone() for name, value in act.state_dict().items()}
    expected = act.eval()(images)
    add_twins(act)
    torch.testing.assert_close(act(images), expected, rtol=1e-4, atol=1e-5)
    drop_twins(act)
    torch.testing.assert_close(act(images), expected)
    assert before.keys() == act.state_dict().keys()
    assert all(torch.equal(before[n], value) for n, value in act.state_dict().items())
    assert parametrize.is_parametrized(act) == (change == 'parametrized')


def test_activation_checkpointing_of_mmengine(trained, images):
    """It replaces the forward method on the module itself."""
    net = trained(vanillanet()).eval()
    unfused, fused = net(images)[0], fuse(copy.deepcopy(net))(images)[0]
    forward = net.forward
    net.forward = lambda x: forward(x)
    add_twins(net)
    assert torch.equal(net(images)[0], fused)
    drop_twins(net)
    assert torch.equal(net(images)[0], unfused)


def test_compiled_code_does_not_keep_a_twin(trained, images):
    net = trained(vanillanet()).eval()
    compiled = torch.compile(net, backend='eager')
    with torch.no_grad():
        unfused = net(images)[0]
        add_twins(net)
        torch.testing.assert_close(compiled(images)[0], unfused)
        drop_twins(net)
        torch.testing.assert_close(compiled(images)[0], unfused)


@pytest.mark.parametrize('build', MODELS)
def test_fused_weights_are_those_of_the_fused_model(build, trained):
    model, other = trained(build()), trained(build(), seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fused_weights(model, other.state_dict())
    expected = fuse(other).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
