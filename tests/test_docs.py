"""What the texts name exists: files, folders, headings, modules and what is in them."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmvanilla
from mmvanilla.benchmark.counting import count
from projects.paper_tables.published import TABLE4

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    path
    for pattern in ('*.md', 'docs/**/*.md', 'projects/*/README.md', 'tests/data/README.md')
    for path in ROOT.glob(pattern)
)

LINK = re.compile(r'\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)')
PATH = re.compile(
    r'(?<![\w./-])(?:benchmarks|configs|docs|mmvanilla|projects|tests|tools)/[\w./-]*\w'
)
NAME = re.compile(r'(?<![\w./-])mmvanilla(?:\.[A-Za-z_]\w*)+')
IMPORT = re.compile(r'^from (mmvanilla[\w.]*) import ([\w, ]+)$', re.MULTILINE)


def find_missing(text, folder):
    """Return how many things of ours a text in a folder names, and which of them do not exist."""
    text = re.sub(r'^::: .*$', '', text, flags=re.MULTILINE)  # mkdocs looks these up
    files = {match[0]: ROOT / match[0] for match in PATH.finditer(text)}
    files.update({match[1]: folder / match[1] for match in LINK.finditer(text) if match[1]})
    missing = [name for name, path in files.items() if not path.exists()]

    titles = [(match[1], match[2]) for match in LINK.finditer(text) if match[2]]
    for name, title in titles:
        there = (folder / name).read_text() if name else text
        if title not in map(anchor, re.findall(r'^#+ (.+)$', there, re.MULTILINE)):
            missing.append(f'{name}#{title}')

    names = set(NAME.findall(text))
    for module, objects in IMPORT.findall(text):
        names.update(f'{module}.{name.strip()}' for name in objects.split(','))
    missing += [name for name in sorted(names) if not importable(name)]
    return len(files) + len(titles) + len(names), missing


def anchor(title):
    """The name under which GitHub links to a heading."""
    return re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')


def importable(name):
    """Whether a dotted name is a module, something within one, or a config as a base names it."""
    if name.startswith('mmvanilla.configs.'):
        return (
            (ROOT / name.removeprefix('mmvanilla.').replace('.', '/')).with_suffix('.py').exists()
        )
    module, _, rest = name.partition('.')
    thing = importlib.import_module(module)
    for part in rest.split('.') if rest else ():
        module = f'{module}.{part}'
        if not hasattr(thing, part):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        thing = getattr(thing, part)
    return True


@pytest.mark.parametrize('path', TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_named_exists(path):
    _, missing = find_missing(path.read_text(), path.parent)
    if not (ROOT / 'mmvanilla').is_dir():  # the package is installed
        missing = [name for name in missing if not re.match(r'(\.\./)?mmvanilla/', name)]
    assert not missing


def test_the_texts_name_things():
    named = sum(find_missing(path.read_text(), path.parent)[0] for path in TEXTS)
    assert named > 50, 'the patterns above no longer find what the texts name'


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
def test_what_is_missing_is_found(text):
    assert len(find_missing(text, ROOT)[1]) == 1


def test_the_api_pages_have_every_public_name():
    """What a room exports is listed by itself; the names of the root are written out."""
    pages = ''.join(path.read_text() for path in ROOT.glob('docs/api/*.md'))
    listed = set(re.findall(r'^(?:::: |      heading: )([\w.]+)$', pages, re.MULTILINE))
    names = {f'mmvanilla.{name}' for name in mmvanilla.__all__ if name != '__version__'}
    assert names <= listed


@pytest.mark.parametrize('name', ['Mask R-CNN', 'RetinaNet', 'UPerNet'])
def test_the_readmes_figures_of_a_model(name):
    text = (ROOT / 'README.md').read_text()
    (row,) = re.findall(rf'^\| \[{name}, VanillaNet-13\]\((\S*)\) (.*)$', text, re.MULTILINE)
    params, products = map(float, re.search(r'([\d.]+) M \| ([\d.]+) G', row[1]).groups())
    if name == 'UPerNet':
        cfg = Config.fromfile(ROOT / row[0])
        init_default_scope(cfg.default_scope)
        cfg.model.backbone.update(deploy=True, init_cfg=None)
        with torch.device('meta'):
            model, image = MODELS.build(cfg.model).eval(), torch.empty(1, 3, 512, 512)
        counts = count(model, lambda: model(image, mode='tensor'))
        expected = counts.params / 1e6, counts.published / 1e9
    else:
        published = TABLE4[f'{name} VanillaNet-13']
        expected = published.params, published.multiply_adds
        scores = [published.box_ap, published.mask_ap] if published.mask_ap else [published.box_ap]
        assert [float(score) for score in re.findall(r'([\d.]+) (?:box|mask) AP', row[1])] == scores
    assert (params, products) == tuple(round(value, 1) for value in expected)


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 900
