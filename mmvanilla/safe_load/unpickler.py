"""An unpickler that makes records and tensors, and refuses everything else.

For torch before 2.5: what it calls ``weights_only`` there cannot be told of records.
"""

import pickle
from types import SimpleNamespace
from typing import Any

from ..errors import CheckpointError
from .pickle_code import ALLOWED, of_python_3
from .records import RECORDS


class Unpickler(pickle.Unpickler):
    """Finds only what weights need."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a record, or a class or function from the list."""
        module, name = of_python_3(module, name)
        full = f'{module}.{name}'
        if full in RECORDS:
            return RECORDS[full]
        if full not in ALLOWED:
            raise CheckpointError(f'holds more than weights ({full})')
        return super().find_class(module, name)


def load(file: Any, **options: Any) -> Any:
    """Unpickle one value."""
    return Unpickler(file, **options).load()


PICKLE_MODULE = SimpleNamespace(Unpickler=Unpickler, load=load, __name__=__name__)
