"""JSON files that a library reads and the checks need too, parsed once."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[\s*(?:\[[^\[\]"]*\][\s,]*)*\]')
_documents: dict[str, Any] = {}  # by path, within a block of noted_json


@contextmanager
def noted_json() -> Iterator[None]:
    """Keep what ``json.load`` returns within a block, for ``read_json``.

    pycocotools, lvis and mmengine call it. Only the first process keeps documents, since only it
    checks the data.
    """
    load = json.load
    if not is_main_process():
        yield
        return

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
    """Return a document in COCO's format, which may lack its polygons."""
    document = _documents.get(os.path.realpath(file))
    if document is None:  # polygons take most of the time and memory
        document = json.loads(POLYGONS.sub(b'"segmentation":0', Path(file).read_bytes()))
    return document
