"""What the texts name exists: files, folders, headings, modules and what is in them."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.engine import check_model

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    path
    for pattern in ('*.md', 'docs/*.md', 'projects/*/README.md', 'tests/data/README.md')
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
    """Whether a dotted name is a module, or something within one."""
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


def test_the_config_of_the_readme_is_a_detector_that_fits(tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    (block,) = [block for block in blocks if '_base_' in block]
    (tmp_path / 'config.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model).__name__ == 'FasterRCNN'
    assert model.backbone.arch['dims'][-1] == 4096
    check_model(SimpleNamespace(model=model))


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 900
