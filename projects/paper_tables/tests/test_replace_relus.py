"""ReLUs are replaced by series activations."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from mmvanilla import UserError
from mmvanilla.models import SeriesActivation
from projects.paper_tables.replace_relus import replace_relus


def as_relus(net):
    """Make every series activation compute a ReLU alone."""
    for module in net.modules():
        if isinstance(module, SeriesActivation):
            n = module.weight.shape[-1] // 2
            module.weight.data.zero_()
            module.weight.data[..., n, n] = (1 + module.bn.eps) ** 0.5
    return net


@pytest.mark.parametrize(
    ('build', 'count'),
    # ResNet-50 calls a ReLU after its stem and three times in each of 16 blocks.
    [(torchvision.models.alexnet, 5), (torchvision.models.resnet50, 49)],
)
def test_replaces_every_relu(build, count, trained):
    torch.manual_seed(0)
    net = trained(build(num_classes=10)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 80, 80)
    swapped = replace_relus(net, act_num=1, image_size=80)
    assert swapped.training
    acts = [module for module in swapped.modules() if isinstance(module, SeriesActivation)]
    assert len(acts) == count
    assert not any(isinstance(m, nn.ReLU) for n, m in swapped.named_modules() if 'cl' not in n)
    for name, value in state.items():
        assert torch.equal(swapped.state_dict()[name], value), name  # batch norms included
    expected = net.eval()(x)
    torch.testing.assert_close(as_relus(swapped).eval()(x), expected, atol=1e-5, rtol=1e-4)
    acts[-1].weight.data.normal_()
    assert not torch.allclose(swapped(x), expected, atol=1e-3)


class Functional(nn.Module):
    """A net that calls its ReLUs as functions and methods."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return torch.relu(F.relu(self.conv(x)).relu())


class Branching(Functional):
    """A net with a branch that depends on the image."""

    def forward(self, x):
        return x.relu() if x.mean() > 0 else x


def test_functions_and_methods():
    acts = [m for m in replace_relus(Functional()).modules() if isinstance(m, SeriesActivation)]
    assert [len(act.weight) for act in acts] == [4, 4, 4]


def test_nets_it_cannot_change():
    with pytest.raises(UserError, match='the ReLUs of Branching cannot be found by tracing it'):
        replace_relus(Branching())
    with pytest.raises(UserError, match='Conv2d has no ReLU on'):
        replace_relus(nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match='with an image of 16 x 16 pixels'):
        replace_relus(torchvision.models.alexnet(), image_size=16)
