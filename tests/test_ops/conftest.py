import pytest


@pytest.fixture(autouse=True)
def small_calls(one_thread):
    """Use one thread: gradcheck makes thousands of calls too small for more."""
