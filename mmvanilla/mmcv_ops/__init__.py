"""The operators of ``mmcv.ops`` for an mmcv without its compiled extension."""

import importlib.util
import sys

__all__ = ['install']


def install() -> None:
    """Put ``mmvanilla.mmcv_ops.ext`` where mmcv looks for its compiled module, unless it has one.

    To be called before anything imports ``mmcv.ops``, which asks for the compiled module as
    soon as it is imported. Data-loading workers that are spawned do the same. Calling it again
    changes nothing.
    """
    if 'mmcv._ext' in sys.modules or importlib.util.find_spec('mmcv._ext') is not None:
        return
    import mmcv

    from . import ext, workers

    sys.modules['mmcv._ext'] = ext
    mmcv._ext = ext
    workers.register()
