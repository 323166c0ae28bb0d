"""What the tests of hostile files share."""

import pytest

from mmvanilla.safe_load import safe_loading


@pytest.fixture
def safe():
    """Load safely within the test."""
    with safe_loading():
        yield
