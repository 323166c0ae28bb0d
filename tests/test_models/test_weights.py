"""Published weights, loaded in the ways of users."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import Runner
from torch import nn

from mmvanilla import VanillaNet, safe_loading
from mmvanilla.engine import CheckWeightsHook
from mmvanilla.errors import CheckpointError
from mmvanilla.safe_load.download import cache_folder, cache_path

DATA = Path(__file__).parents[1] / 'data'
NAMES = ['cls6.pt', 'det13.pt', 'ada13.pt']


class Detector(BaseModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(4, 4, 1)


@pytest.fixture
def publish(tmp_path):
    """Write the checkpoint of a record, perhaps changed, to a file; return both."""

    def write(name, change=lambda checkpoint: checkpoint):
        record = torch.load(DATA / name, weights_only=True)
        torch.save(change(record['checkpoint']), tmp_path / 'published.pth')
        return record, str(tmp_path / 'published.pth')

    return write


def build(record, init=None, prefix=None, **options):
    arch = dict(record['arch'])
    options.setdefault('act_num', arch.pop('act_num'))
    arch.pop('act_num', None)
    init = init and dict(type='Pretrained', checkpoint=init, prefix=prefix)
    return VanillaNet(arch, init_cfg=init, **options).eval()


@torch.no_grad()
def assert_features(net, record, tolerance=1e-5):
    key = 'features' if 'features' in record else 'features_act1'
    for ours, theirs in zip(net(record['input']), record[key], strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
@pytest.mark.parametrize('name', NAMES)
def test_init_cfg(name, prefix, publish):
    """Without safe loading for the whole process, as in a user's script."""
    record, file = publish(name)
    net = build(record, file, prefix)
    net.init_weights()
    assert_features(net, record)


def run(model, file, tmp_path, safe=True):
    """Load a file and check the weights, as a training does."""
    runner = Runner(model, str(tmp_path), load_from=file, experiment_name=tmp_path.name)
    hook = CheckWeightsHook()
    runner.register_hook(hook)
    with safe_loading(safe):
        runner.load_or_resume()
    hook.before_train(runner)


def test_without_safe_loading_the_message_says_how_to_load(publish, tmp_path):
    record, file = publish('cls6.pt')
    with pytest.raises(CheckpointError, match=r'init_cfg.* mmvanilla.safe_loading\(\)'):
        run(Detector(build(record)), file, tmp_path, safe=False)


@pytest.mark.parametrize('name', NAMES)
def test_init_cfg_by_url(name, publish, monkeypatch):
    record, file = publish(name)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(Path(file).parent / 'hub'))
    url = 'https://example.org/published.pth'
    downloaded = Path(cache_path(url, cache_folder()))
    downloaded.parent.mkdir(parents=True)
    shutil.copy(file, downloaded)
    net = build(record, url)
    net.init_weights()
    assert_features(net, record)


@pytest.mark.parametrize('name', NAMES)
def test_load_from_of_a_runner(name, publish, tmp_path):
    record, file = publish(name)
    runner = Runner(
        Detector(build(record)), str(tmp_path), load_from=file, experiment_name=name + tmp_path.name
    )
    with safe_loading():
        runner.load_or_resume()
    assert_features(runner.model.backbone, record)


def test_averaged_weights_come_first(publish):
    def spoil(checkpoint):
        checkpoint['model'] = {k: torch.zeros_like(v) for k, v in checkpoint['model'].items()}
        return checkpoint

    record, file = publish('cls6.pt', spoil)
    net = build(record, file)
    net.init_weights()
    assert_features(net, record)


def test_other_layouts_of_the_file(publish):
    for change in (lambda c: dict(model=c['model_ema']), lambda c: c['model_ema']):
        record, file = publish('cls6.pt', change)
        net = build(record, file)
        net.init_weights()
        assert_features(net, record)


@pytest.mark.parametrize(('act_num', 'more'), [(3, 4), (3, 5)])
def test_a_smaller_act_num_loads_exactly(act_num, more, publish):
    record, file = publish('cls6.pt')
    assert record['arch']['act_num'] == act_num
    net = build(record, file, act_num=more)
    net.init_weights()
    assert net.stages[0].act.weight.shape[-1] == 2 * more + 1
    assert_features(net, record, 1e-6)


def test_deploy_form(tmp_path):
    net = VanillaNet(dict(dims=[4] * 5, strides=[1, 2, 2, 2]), deploy=True)
    torch.save(net.state_dict(), tmp_path / 'deploy.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'deploy.pth'))
    other = VanillaNet(dict(dims=[4] * 5, strides=[1, 2, 2, 2]), deploy=True, init_cfg=init)
    other.init_weights()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(net.eval()(image)[-1], other.eval()(image)[-1])


def without(name):
    def change(checkpoint):
        del checkpoint['model_ema'][name]
        return checkpoint

    return change


def reshaped(name):
    def change(checkpoint):
        checkpoint['model_ema'][name] = torch.zeros(3, 3)
        return checkpoint

    return change


def renamed(old, new):
    def change(checkpoint):
        return dict(model_ema={k.replace(old, new): v for k, v in checkpoint['model_ema'].items()})

    return change


@pytest.mark.parametrize(
    ('change', 'options', 'sentence'),
    [
        (without('stages.1.conv2.0.weight'), {}, "lacks 'stages.1.conv2.0.weight'"),
        (without('stem2.2.bn.running_mean'), {}, "lacks 'stem2.2.bn.running_mean'"),
        (reshaped('stages.3.conv1.0.weight'), {}, r'has the shape \(3, 3\) in the checkpoint'),
        (reshaped('stem2.2.weight'), {}, r'has the shape \(3, 3\) in the checkpoint'),
        (renamed('stages', 'layers'), {}, "lacks 'stages.0.conv1.0.weight'"),
        (renamed('st', 'net.st'), {}, 'holds no weights of a VanillaNet'),
        (lambda c: dict(model_ema={}), {}, 'holds no weights'),
        (lambda c: dict(net=c['model_ema']), {}, 'holds no weights of a VanillaNet'),
        (lambda c: dict(state_dict=dict(fc=torch.rand(2))), {}, 'holds no weights of a VanillaNet'),
        (lambda c: c, dict(act_num=2), 'set act_num of the backbone to at least 3'),
        (lambda c: c, dict(deploy=True), 'in training form, but the backbone is in deploy form'),
    ],
)
@pytest.mark.parametrize('door', ['init_cfg', 'load_from'])
def test_no_silent_start_from_scratch(change, options, sentence, door, publish, tmp_path):
    record, file = publish('cls6.pt', change)
    if door == 'init_cfg':
        with pytest.raises(CheckpointError, match=sentence):
            build(record, file, **options).init_weights()
    else:
        # Under load_from the names carry the prefix of the backbone.
        sentence = sentence.replace("lacks '", "lacks 'backbone.")
        with pytest.raises(CheckpointError, match=sentence):
            run(Detector(build(record, **options)), file, tmp_path)


def levels(net, record, out_indices):
    """Compare the levels that a net returns with the record's."""
    key = 'features' if 'features' in record else 'features_act1'
    expected = [record[key][level] for level in out_indices]
    with torch.no_grad():
        for ours, theirs in zip(net(record['input']), expected, strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize('out_indices', [(0,), (0, 1), (1, 2)])
@pytest.mark.parametrize('name', NAMES)
def test_weights_of_stages_that_are_not_built_are_ignored(name, out_indices, publish, tmp_path):
    record, file = publish(name)
    net = build(record, file, out_indices=out_indices)
    net.init_weights()
    levels(net, record, out_indices)
    model = Detector(build(record, out_indices=out_indices))
    run(model, file, tmp_path)
    levels(model.backbone, record, out_indices)
    # Their own weights load strictly, in the same net and in one of fewer levels.
    other = Detector(build(record, out_indices=out_indices))
    other.load_state_dict(model.state_dict())
    levels(other.backbone, record, out_indices)
    first = build(record, out_indices=out_indices[:1])
    first.load_state_dict(model.backbone.state_dict())
    levels(first, record, out_indices[:1])
    with pytest.raises(CheckpointError, match=r"lacks 'stages\."):
        build(record).load_state_dict(net.state_dict())


def test_other_surplus_weights_are_reported_without_the_last_level(publish):
    def add(name):
        return lambda c: dict(model_ema=dict(c['model_ema'], **{name: torch.zeros(1)}))

    for name in ('stages.0.conv3.0.bias', 'stages.4.conv1.0.bias', 'stages.extra'):
        record, file = publish('cls6.pt', add(name))
        assert len(record['arch']['strides']) == 4
        with pytest.raises(CheckpointError, match=f"holds '{name}', which the net does not have"):
            build(record, file, out_indices=(0, 1)).init_weights()


@pytest.mark.parametrize(
    ('arch', 'sentence'),
    [
        (
            dict(dims=[16, 32, 48, 64, 32], strides=[2, 2, 2, 1]),
            r"'stages.3.conv2.0.weight' has the",
        ),
        (dict(dims=[16, 32, 48, 64], strides=[2, 2, 2]), "holds 'stages.3.act.bn.bias', which the"),
        (dict(dims=[16, 32, 48, 64, 64, 64], strides=[2, 2, 2, 1, 1]), "lacks 'stages.4.conv1"),
    ],
)
def test_weights_of_another_net(arch, sentence, publish):
    _, file = publish('cls6.pt')
    net = VanillaNet(arch, init_cfg=dict(type='Pretrained', checkpoint=file))
    with pytest.raises(CheckpointError, match=sentence):
        net.init_weights()


def test_a_counter_of_batches_is_optional(publish):
    record, file = publish('cls6.pt', without('stem1.1.num_batches_tracked'))
    net = build(record, file)
    net.init_weights()
    assert_features(net, record)


def test_a_published_file_with_a_string_for_a_tensor(publish):
    def spoil(checkpoint):
        return dict(model={**checkpoint['model_ema'], 'stem1.0.weight': 'text'})

    record, file = publish('cls6.pt', spoil)
    with pytest.raises(CheckpointError, match=r'stem1.0.weight.*a str, expected a tensor'):
        build(record, file).init_weights()
