"""Command lines that answer a mistake with one sentence instead of a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import sentence


@contextmanager
def one_sentence_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of the given kinds into one line on stderr and exit code 2."""
    try:
        yield
    except kinds as error:
        print(f'{os.path.basename(sys.argv[0])}: error: {sentence(error)}', file=sys.stderr)
        sys.exit(2)
