"""Tables 1 and 2 and the transfer check: configs, figures and files."""

import re

import pytest
import torch
from mmengine.runner import Runner

from mmvanilla.models import SeriesActivation, fuse
from projects.paper_tables import trainings, transfer
from projects.paper_tables.deep_convs import DeepConv
from projects.paper_tables.trainings import TABLES, Run, Variant, read_variant

VARIANTS = {f'{v.net} {v.name}': v for v in [*TABLES['table1'], *TABLES['table2']]}


def build(variant, small, tmp_path):
    cfg = read_variant(variant, small, seed=0)
    cfg.work_dir, cfg.log_level = str(tmp_path), 'ERROR'
    cfg.experiment_name = f'{tmp_path.name}'
    return cfg, Runner.from_cfg(cfg)


@pytest.mark.parametrize('name', VARIANTS)
def test_small_variants(name, tmp_path):
    cfg, runner = build(VARIANTS[name], True, tmp_path)
    settings = cfg.model.backbone
    kinds = [type(module) for module in runner.model.backbone.modules()]
    assert (DeepConv in kinds) == settings.deep_training
    assert (SeriesActivation in kinds) == settings.series_activation
    hooks = [type(hook).__name__ for hook in runner.hooks]
    assert ('DeepTrainingHook' in hooks) == settings.deep_training
    logits = runner.model.eval()(torch.rand(2, 3, 64, 64), mode='tensor')
    logits = runner.model.head(logits) if isinstance(logits, tuple) else logits
    assert logits.shape == (2, 6)
    assert 'SwitchToDeployHook' in hooks


def test_the_variants_are_those_of_the_tables():
    assert len(TABLES['table1']) == 12
    assert [v.published for v in TABLES['table1'] if v.published] == [76.36]
    shortcuts = [read_variant(v, False, 0) for v in TABLES['table2']]
    assert [cfg.model.backbone.net.shortcut for cfg in shortcuts] == [
        None,
        'before_act',
        'after_act',
    ]


# With a head of 1000 classes. The authors' code gives 28,412,416 for the fused backbone of
# VanillaNet-6; here its 11,776 channels keep their batch norms. The others are torchvision's.
PARAMS = {
    'VanillaNet-6 both': 28_412_416 + 2 * 11_776 + 4096 * 1000 + 1000,
    'AlexNet neither': 61_100_840,
    'ResNet-50 neither': 25_557_032,
}


@pytest.mark.parametrize('name', PARAMS)
def test_imagenet_in_full_can_start(name, tmp_path, trained):
    """All but the data is built: model, optimiser, hooks."""
    cfg, runner = build(VARIANTS[name], False, tmp_path)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.dataset.type == 'ImageNet'
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    assert type(wrapper.optimizer).__name__ == 'Lamb'
    fuse(trained(runner.model))
    assert sum(parameter.numel() for parameter in runner.model.parameters()) == PARAMS[name]


def runs():
    first, second = Variant('A', 'x', 'a', published=76.36), Variant('A', 'y', 'a')
    return [
        Run(first, 0, 90.0, 5.0),
        Run(second, 0, 50.0, 5.0),
        Run(first, 1, 92.0, 5.0),
        Run(second, 1, 50.0, 5.0),
    ]


def test_cells():
    header, rows = trainings.cells(runs())
    assert header == ['Top-1, %', 'x', 'y', 'seeds', 'published']
    # The standard deviation of 90 and 92 is the square root of 2.
    assert rows == [['A', '91.00 ± 1.41', '50.00 ± 0.00', '2', 'x 76.36']]


def test_plot(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(trainings.plt, 'close', drawn.append)
    trainings.plot(runs(), tmp_path / 'plot.png')
    (axes,) = drawn[0].axes
    assert [[*line.get_ydata()] for line in axes.lines] == [[90, 92], [76.36], [50, 50]]
    assert [means.get_segments()[0][0][1] for means in axes.collections] == [91, 50]
    assert (tmp_path / 'plot.png').is_file()


def test_transfer_figures():
    results = [
        transfer.Result('from scratch', 0, 0.25, 0.2),
        transfer.Result('from scratch', 1, 0.5, 0.2),
        transfer.Result('pre-trained', 0, 0.5, 0.25, 91.0),
        transfer.Result('pre-trained', 1, 0.25, 0.25, 92.0),
    ]
    _, rows = transfer.cells(results)
    assert rows[1] == ['box AP, pre-trained', '0.500', '0.250', '0.375 ± 0.177']
    assert re.findall(r'[+-]?\d[.\d]*', transfer.verdict(results)) == ['+0.000', '1', '2']
