"""JSON files that a library reads and the checks need too, parsed once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

_documents: dict[str, Any] = {}  # by path, within a block of noted_json


@contextmanager
def noted_json() -> Iterator[None]:
    """Keep what ``json.load`` returns within a block, for ``read_json``.

    pycocotools, lvis and mmengine call it. Only the first process keeps documents, since only it
    checks the data.
    """
    if not is_main_process():
        yield
        return
    load = json.load

    def note(stream: Any, *args: Any, **kwargs: Any) -> Any:
        document = load(stream, *args, **kwargs)
        if isinstance(getattr(stream, 'name', None), str):
            _documents[os.path.realpath(stream.name)] = document
        return document

    json.load = note  # type: ignore[assignment]
    try:
        yield
    finally:
        json.load = load
        _documents.clear()


def read_json(file: str) -> Any:
    """Return a document, without reading it again within a block of ``noted_json``."""
    return _documents.get(os.path.realpath(file)) or json.loads(Path(file).read_bytes())
