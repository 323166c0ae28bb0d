"""Random arguments give a net that runs, or an error of one sentence."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS
from torch import nn

from mmvanilla import VanillaNet
from mmvanilla.errors import UserError

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70),
    st.integers(10**6, 10**30),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(-2, 9), st.none(), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from([object(), int, len, complex(1), range(3), {1, 2}, torch.ones(2)]),
)


def mostly(valid):
    """Draw valid values, and sometimes any other."""
    return st.integers(0, 29).flatmap(lambda dice: JUNK if dice == 17 else valid)


@st.composite
def archs(draw):
    length = draw(st.integers(1, 5))
    arch = dict(
        dims=draw(
            st.lists(st.sampled_from([1, 2, 4, 8]), min_size=length + 1, max_size=length + 1)
        ),
        strides=draw(st.lists(st.sampled_from([1, 1, 2]), min_size=length, max_size=length)),
    )
    if draw(st.booleans()):
        arch['ada_pool'] = draw(mostly(st.booleans()))
    for key in draw(st.sampled_from([()] * 15 + [('dims',), ('strides',), ('width',)])):
        arch[key] = draw(JUNK)
    return arch


BATCH_NORMS = st.fixed_dictionaries(
    dict(type=st.sampled_from(['BN', 'BN2d', 'SyncBN', nn.BatchNorm2d])),
    optional=dict(
        eps=mostly(st.sampled_from([1e-6, 1e-3])),
        momentum=mostly(st.sampled_from([0.1, None, 0.0])),
        affine=mostly(st.booleans()),
        track_running_stats=mostly(st.booleans()),
        requires_grad=mostly(st.booleans()),
    ),
)
OTHER_NORMS = [
    *(
        dict(type=name)
        for name in ('IN', 'GN', 'LN', 'BN1d', 'BN3d', 'Unknown', 'os.getcwd', 'ReLU')
    ),
    *(dict(type='GN', num_groups=groups) for groups in (1, 2, 3)),
    *({}, dict(eps=1e-6), dict(type=nn.ReLU), dict(type='BN', width=2), {1: 2, 'type': 'BN'}),
]
NORMS = st.integers(0, 9).flatmap(
    lambda dice: st.sampled_from(OTHER_NORMS) if dice > 7 else BATCH_NORMS
)

INITS = st.sampled_from(
    [
        *[None, dict(type='Kaiming', layer='Conv2d')] * 5,
        [dict(type='Constant', layer='BatchNorm2d', val=1), dict(type='Xavier', layer='Conv2d')],
        dict(type='Unknown'),
        dict(type='Kaiming', layer='Conv2d', width=3),
        dict(type='Constant'),
        dict(checkpoint='a.pth'),
        [None],
        [1],
    ]
)

ARGUMENTS = st.fixed_dictionaries(
    dict(
        arch=mostly(archs()), out_indices=mostly(st.sampled_from([[0], [0], (0,), [0, 1], [2, 1]]))
    ),
    optional=dict(
        act_num=mostly(st.integers(0, 3)),
        in_channels=mostly(st.integers(1, 4)),
        norm_cfg=mostly(NORMS),
        frozen_stages=mostly(st.integers(-1, 2)),
        norm_eval=mostly(st.booleans()),
        with_cp=mostly(st.booleans()),
        deploy=mostly(st.booleans()),
        init_cfg=mostly(INITS),
    ),
)


def outcome(arguments):
    """Build a net and run it; return 'runs', or 'refused' after an error of one sentence."""
    try:
        net = MODELS.build(dict(type='VanillaNet', **arguments))
        net.init_weights()
    except UserError as error:
        sentence = str(error)
        return 'refused' if '\n' not in sentence and len(sentence) > 20 else sentence
    side = 2 * net.min_size
    if side > 512:
        return 'too large to run'
    image = torch.randn(2, net.in_channels, side, side, requires_grad=True)
    synchronised = any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())
    net.train(not net.deploy and not synchronised)
    features = net(image)
    assert [f.shape[1] for f in features] == list(net.out_channels)
    if not net.deploy:
        sum(f.sum() for f in features).backward()
        assert image.grad.shape == image.shape
    return 'runs'


def fuzz(examples):
    """Count the outcomes of random arguments."""
    counts = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ARGUMENTS)
    def run(arguments):
        counts[outcome(arguments)] += 1

    run()
    assert counts.keys() <= {'runs', 'refused', 'too large to run'}
    assert counts['too large to run'] < examples / 20
    return counts


def test_arguments():
    counts = fuzz(200)
    assert min(counts['runs'], counts['refused']) > 20


@pytest.mark.slow
def test_many_arguments():
    counts = fuzz(2000)
    assert sum(counts.values()) >= 2000
    assert min(counts['runs'], counts['refused']) > 400


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (dict(norm_cfg=None), 'norm_cfg is None, expected a dict with a type'),
        (dict(norm_cfg=dict(eps=1e-6)), r"norm_cfg is \{'eps': 1e-06\}, expected a dict with a"),
        (
            dict(norm_cfg=dict(type='Norm')),
            r"norm_cfg is .*'Norm'.*, expected a norm .*Cannot find",
        ),
        (dict(norm_cfg=dict(type='BN1d')), 'expected a norm layer for images of 8 channels'),
        (dict(norm_cfg=dict(type='GN')), 'expected a norm layer for images of 8 channels'),
        (dict(deploy='False'), "deploy is 'False', expected True or False"),
        (dict(act_num=10**9), 'act_num is 1000000000, expected .* at most 64'),
    ],
)
def test_sentences(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        VanillaNet(dict(dims=[8, 8], strides=[2]), **{'out_indices': [0], **arguments})


@pytest.mark.parametrize('init_cfg', [dict(type='Unknown'), 'Unknown.pth'])
def test_an_unknown_initialization(init_cfg):
    net = VanillaNet(dict(dims=[8, 8], strides=[2]), [0], init_cfg=init_cfg)
    with pytest.raises(UserError, match=r"init_cfg is .*'Unknown.* cannot be applied"):
        net.init_weights()
