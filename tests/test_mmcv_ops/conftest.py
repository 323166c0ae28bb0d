import importlib

import pytest

from mmvanilla.mmcv_ops import ext

# With compiled mmcv there is only test_ext.py to run: mmcv must be left alone.
if importlib.import_module('mmcv._ext') is not ext:
    collect_ignore_glob = ['test_[!e]*.py']


@pytest.fixture(autouse=True)
def small_calls(one_thread):
    """Use one thread: gradcheck makes thousands of calls too small for more."""
