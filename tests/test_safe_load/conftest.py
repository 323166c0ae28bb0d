"""Fixtures of the tests of hostile files."""

import pytest

from mmvanilla.safe_load import safe_loading


@pytest.fixture
def safe():
    """Load safely within the test."""
    with safe_loading():
        yield
