"""Errors of command lines in one sentence instead of a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError, sentence


@contextmanager
def one_sentence_errors(debug: bool, *kinds: type[Exception]) -> Iterator[None]:
    """Print exceptions as one line on stderr and exit with code 2.

    The class is added to errors other than UserError and OSError.

    Args:
        debug: Raise the exceptions instead.
        kinds: Types of exceptions, such as UserError.
    """
    try:
        yield
    except kinds as error:
        if debug:
            raise
        text = sentence(error)
        if not isinstance(error, UserError | OSError):
            text = f'{text} ({type(error).__name__}; --debug shows the traceback)'
        print(f'{os.path.basename(sys.argv[0])}: error: {text}', file=sys.stderr)
        sys.exit(2)
