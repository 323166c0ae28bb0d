"""Files, headings, names and published figures in the docs exist and are right."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla import VanillaNet
from projects.paper_tables.counting import count_both
from projects.paper_tables.published import TABLE3, TABLE4

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ('*.md', 'docs/**/*.md', 'projects/*/README.md', 'tests/data/README.md')
    for path in ROOT.glob(pattern)
)
MAX_WORDS = {'README.md': 900, 'CHANGELOG.md': 1500, 'docs/benchmarks.md': 4000}

LINK = re.compile(r'\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)')
PATH = re.compile(
    r'(?<![\w./-])(?:benchmarks|configs|docs|mmvanilla|projects|tests|tools)/[\w./-]*\w'
)
NAME = re.compile(r'(?<![\w./-])mmvanilla(?:\.[A-Za-z_]\w*)+')
IMPORT = re.compile(r'^from (mmvanilla[\w.]*) import ([\w, ]+)$', re.MULTILINE)


def find_missing(text, folder):
    """Return the files, headings and names in a text that do not exist."""
    text = re.sub(r'^::: .*$', '', text, flags=re.MULTILINE)  # mkdocs looks these up
    files = {match[0]: ROOT / match[0] for match in PATH.finditer(text)}
    files.update({match[1]: folder / match[1] for match in LINK.finditer(text) if match[1]})
    missing = [name for name, path in files.items() if not path.exists()]

    titles = [(match[1], match[2]) for match in LINK.finditer(text) if match[2]]
    for name, title in titles:
        page = (folder / name).read_text() if name else text
        if title not in map(anchor, re.findall(r'^#+ (.+)$', page, re.MULTILINE)):
            missing.append(f'{name}#{title}')

    names = set(NAME.findall(text))
    for module, objects in IMPORT.findall(text):
        names.update(f'{module}.{name.strip()}' for name in objects.split(','))
    return missing + [name for name in sorted(names) if not importable(name)]


def anchor(title):
    """Return GitHub's anchor of a heading."""
    return re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')


def importable(name):
    """Return whether a dotted name is a module, an object in one, or a config of the package."""
    if name.startswith('mmvanilla.configs.'):
        file = name.removeprefix('mmvanilla.').replace('.', '/')
        return (ROOT / f'{file}.py').exists()
    module, _, rest = name.partition('.')
    found = importlib.import_module(module)
    for attribute in rest.split('.') if rest else ():
        module = f'{module}.{attribute}'
        if not hasattr(found, attribute):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        found = getattr(found, attribute)
    return True


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_named_exists(path):
    missing = find_missing(path.read_text(), path.parent)
    if not (ROOT / 'mmvanilla').is_dir():  # the package is installed
        missing = [name for name in missing if not re.match(r'(\.\./)?mmvanilla/', name)]
    assert not missing


@pytest.mark.parametrize(
    'text',
    [
        '`tools/no_such_tool.py`',
        '[a link](no_such_file.md)',
        '[a heading](docs/benchmarks.md#no-such-heading)',
        '`mmvanilla.no_such_module`',
        '`mmvanilla.models.VanillaNet.no_such_method`',
        'from mmvanilla.models import fuse, no_such_function',
    ],
)
def test_missing_names_are_found(text):
    assert len(find_missing(text, ROOT)) == 1


@pytest.mark.parametrize(
    ('page', 'package'),
    [('index', 'mmvanilla'), ('models', 'mmvanilla.models'), ('engine', 'mmvanilla.engine')],
)
def test_the_api_pages_list_every_public_name(page, package):
    listed = set(NAME.findall((ROOT / f'docs/api/{page}.md').read_text()))
    public = set(importlib.import_module(package).__all__) - {'__version__'}
    assert {f'{package}.{name}' for name in public} <= listed


def rows(page, config):
    """Return the cells of a page's table rows with figures of a config."""
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith('|') and f'{config}.py' in line and ' G |' in line:
            yield [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize('page', ['README.md', 'docs/index.md'])
@pytest.mark.parametrize('name', ['Mask R-CNN', 'RetinaNet', 'UPerNet'])
def test_figures_of_detectors_and_segmentors(name, page):
    config = f'{name.lower().replace("-", "").replace(" ", "_")}_vanillanet13'
    ((_, _, scores, params, products, *_),) = rows(page, config)
    found = [float(score) for score in re.findall(r'([\d.]+) (?:box|mask) AP', scores)]
    if name == 'UPerNet':
        cfg = Config.fromfile(ROOT / f'configs/{config}.py')
        init_default_scope(cfg.default_scope)
        cfg.model.backbone.update(deploy=True, init_cfg=None)
        with torch.device('meta'):
            model, image = MODELS.build(cfg.model).eval(), torch.empty(1, 3, 512, 512)
        counts = count_both(model, lambda: model(image, mode='tensor'))
        expected = counts.params / 1e6, counts.published / 1e9
        assert not found
    else:
        published = TABLE4[f'{name} VanillaNet-13']
        expected = published.params, published.multiply_adds
        assert found == [ap for ap in (published.box_ap, published.mask_ap) if ap]
    assert (params, products) == (f'{expected[0]:.1f} M', f'{expected[1]:.1f} G')


@pytest.mark.parametrize('name', [name for name in TABLE3 if name.startswith('VanillaNet')])
def test_figures_of_classifiers(name):
    depth = name.removeprefix('VanillaNet-').replace('-x1.5', '_1.5x').replace('-', '_')
    ((_, top1, params, products, _, latency),) = rows(
        'docs/index.md', f'vanillanet{depth}_imagenet'
    )
    net = TABLE3[name]
    assert (top1, latency) == (f'{net.top1:.2f}', f'{net.latency:.2f} ms')
    products_g = net.dense + net.depthwise
    assert (params, products) == (f'{net.params:.1f} M', f'{products_g:.1f} G')


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_short(path):
    most = MAX_WORDS.get(str(path.relative_to(ROOT)), 1500)
    assert len(path.read_text().split()) <= most


OWN_NET = re.compile(r'dims=(\[[\d, ]+\]), strides=(\[[\d, ]+\])')


@pytest.mark.parametrize('page', ['README.md', 'docs/own_data.md', 'docs/training.md'])
def test_own_nets_have_all_levels(page):
    for dims, strides in OWN_NET.findall((ROOT / page).read_text()):
        net = VanillaNet(dict(dims=json.loads(dims), strides=json.loads(strides)))
        assert len(net(torch.zeros(1, 3, 64, 64))) == 4
