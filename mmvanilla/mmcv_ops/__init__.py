"""The operators of ``mmcv.ops`` for an mmcv without its compiled extension."""

import importlib.util
import sys

__all__ = ['install']


def install() -> None:
    """Put ``mmvanilla.mmcv_ops.ext`` in the place of mmcv's compiled module, unless it has one.

    Call it before anything imports ``mmcv.ops``. Spawned data-loading workers do so themselves. A
    second call changes nothing.
    """
    if 'mmcv._ext' in sys.modules or importlib.util.find_spec('mmcv._ext') is not None:
        return
    import mmcv

    from . import ext, workers

    sys.modules['mmcv._ext'] = ext
    mmcv._ext = ext
    workers.register()
