"""Trainings that are resumed, as the tools resume them: safely."""

import pytest

from mmvanilla import safe_loading


@pytest.fixture(autouse=True)
def load_safely():
    with safe_loading():
        yield
