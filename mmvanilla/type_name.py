"""The types that configs name, as texts or as classes."""

from collections.abc import Mapping


def type_name(cfg: object) -> str:
    """Return the bare name of what a config builds, '' if it does not say.

    A config may name it with its scope (``'mmdet.Resize'``), by its path
    (``'mmdet.datasets.transforms.Resize'``) or, in pure Python, as the class itself.
    """
    kind = cfg.get('type', '') if isinstance(cfg, Mapping) else ''
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]
