"""Command lines that answer a mistake with one sentence instead of a traceback."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError, sentence


def add_debug(parser: ArgumentParser) -> None:
    """Add the argument that shows tracebacks."""
    text = 'show the traceback of an error, not one sentence'
    parser.add_argument('--debug', action='store_true', help=text)


@contextmanager
def one_sentence_errors(debug: bool, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of the given kinds into one line on stderr and exit code 2.

    Errors other than UserError and OSError are named by their class.

    Args:
        debug: Raise them as they are.
        kinds: Types such as UserError.
    """
    try:
        yield
    except kinds as error:
        if debug:
            raise
        text = sentence(error)
        if not isinstance(error, UserError | OSError):
            text = f'{text} ({type(error).__name__}; --debug shows where it comes from)'
        print(f'{os.path.basename(sys.argv[0])}: error: {text}', file=sys.stderr)
        sys.exit(2)
