"""The model index has OpenMMLab's format, and its results are the published ones."""

from pathlib import Path

import pytest
from mmengine.config import Config
from modelindex.load_model_index import load

from projects.paper_tables.published import TABLE3, TABLE4

ROOT = Path(__file__).parents[1]
DETECTORS = {
    'mask_rcnn_vanillanet13': TABLE4['Mask R-CNN VanillaNet-13'],
    'retinanet_vanillanet13': TABLE4['RetinaNet VanillaNet-13'],
}
IMAGENET = {
    f'vanillanet{name.removeprefix("VanillaNet-").replace("-x1.5", "_1.5x").replace("-", "_")}'
    '_imagenet': net
    for name, net in TABLE3.items()
    if name.startswith('VanillaNet')
}


@pytest.fixture(scope='module')
def models():
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return {model.name: model for model in index.models}


def test_configs_exist(models):
    for model in models.values():
        assert Config.fromfile(ROOT / model.config).model.backbone.type == 'VanillaNet'


@pytest.mark.parametrize('name', DETECTORS)
def test_results_are_marked_as_published(name, models):
    found = {k: v for result in models[name].results for k, v in result.metrics.items()}
    box_ap, mask_ap = DETECTORS[name].box_ap, DETECTORS[name].mask_ap
    published = {'box AP (published)': box_ap, 'mask AP (published)': mask_ap}
    assert found == {key: value for key, value in published.items() if value}
    assert models[name].metadata.data['Results From'] == 'published'
    assert models[name].weights.endswith('.pth')


def test_unpublished_recipes_have_no_results(models):
    assert not models['upernet_vanillanet13'].results
    assert not models['upernet_vanillanet13'].weights


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_nets_are_those_of_table3(name, models):
    model, net = models[name], IMAGENET[name]
    (result,) = model.results
    assert result.metrics == {'Top 1 Accuracy (published)': net.top1}
    assert model.metadata.data['Results From'] == 'published'
    assert model.metadata.parameters / 1e6 == pytest.approx(net.params)
    assert model.metadata.flops / 1e9 == pytest.approx(net.dense + net.depthwise)
    assert model.weights.endswith('.pth')
