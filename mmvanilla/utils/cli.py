"""Command lines that answer a mistake with one sentence instead of a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_sentence_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of the given kinds into one line on stderr and exit code 2."""
    try:
        yield
    except kinds as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if text.startswith('Caught '):
            # torch puts a worker's traceback before the line that says `module.Class: sentence`.
            text = text.rstrip().splitlines()[-1].partition(': ')[2]
        print(
            f'{os.path.basename(sys.argv[0])}: error: '
            + (' '.join(text.split()) or type(error).__name__),
            file=sys.stderr,
        )
        sys.exit(2)
