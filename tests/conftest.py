"""Importing the package first lets the tests import mmdet and mmseg in any order."""

import mmvanilla  # noqa: F401
