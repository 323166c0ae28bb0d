"""The types that configs name, as texts or as classes, and the library that they are of."""

from collections.abc import Mapping
from typing import Any

LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def type_name(cfg: object) -> str:
    """Return the bare name of what a config builds, '' if it does not say.

    A config may name it with its scope (``'mmdet.Resize'``), by its path
    (``'mmdet.datasets.transforms.Resize'``) or, in pure Python, as the class itself.
    """
    kind = cfg.get('type', '') if isinstance(cfg, Mapping) else ''
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def library(cfg: Any) -> str:
    """Return the library that a config's model is of: mmdet, mmseg or mmpretrain.

    The model's class tells it, or the base of that; else the default scope; else it is mmdet, on
    which others build.
    """
    kind = (cfg.get('model') or {}).get('type', '')
    bases = kind.mro() if isinstance(kind, type) else []
    names = [kind] if isinstance(kind, str) else [base.__module__ for base in bases]
    roots = [name.partition('.')[0] for name in names] + [cfg.get('default_scope')]
    return next((root for root in roots if root in LIBRARIES), 'mmdet')


def scope(cfg: Any) -> str:
    """Return the scope in which a config's names are looked up.

    Configs in pure Python often have none, since their types are classes.
    """
    return cfg.get('default_scope') or library(cfg)
