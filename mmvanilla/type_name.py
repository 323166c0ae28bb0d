"""Types in configs, as strings or classes, and the libraries they belong to."""

from collections.abc import Iterator, Mapping
from typing import Any

LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def type_name(cfg: object) -> str:
    """Return the class name in a config's ``type``, '' if it has none.

    The type is a name, a name with its scope (``'mmdet.Resize'``), a path
    (``'mmdet.datasets.transforms.Resize'``) or, in pure Python configs, a class.
    """
    kind = cfg.get('type', '') if isinstance(cfg, Mapping) else ''
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def library(cfg: Any) -> str:
    """Return the library of a config's model: mmdet, mmseg or mmpretrain.

    It follows from the class of the model or its bases, else from the default scope. The default
    is mmdet, which other libraries build on.
    """
    kind = (cfg.get('model') or {}).get('type', '')
    bases = kind.mro() if isinstance(kind, type) else []
    names = [kind] if isinstance(kind, str) else [base.__module__ for base in bases]
    roots = [name.partition('.')[0] for name in names] + [cfg.get('default_scope')]
    return next((root for root in roots if root in LIBRARIES), 'mmdet')


def scope(cfg: Any) -> str:
    """Return the scope of a config's names.

    Pure Python configs often have none, since their types are classes.
    """
    return cfg.get('default_scope') or library(cfg)


def walk(node: Any) -> Iterator[dict]:
    """Yield all dicts of a nested config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        yield from walk(child)
