"""Checks of the classes that a config gives to a data set."""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmengine.fileio import list_from_file

from ..errors import UserError


def check_metainfo(where: str, config: Mapping, optional: bool = False) -> None:
    """Check the classes of a data set's config.

    As in mmengine, a text is the name of a file with a class a line, if there is such a file.

    Args:
        where: What to call the data set.
        config: Its config.
        optional: Whether ``classes`` may be None, as in mmpretrain, which then asks the folders.

    Raises:
        UserError: If they are no list or tuple of different names.
    """
    metainfo = config.get('metainfo')
    if metainfo is None:
        metainfo = {}
    if not isinstance(metainfo, Mapping):
        raise UserError(f'metainfo of {where} is {metainfo!r}, expected dict(classes=(...))')
    if 'CLASSES' in metainfo and 'classes' not in metainfo:
        raise UserError(f'metainfo of {where} has CLASSES, which nothing reads; write classes')
    for name, given in (('metainfo.classes', metainfo), ('classes', config)):
        if 'classes' in given and not (optional and given['classes'] is None):
            _check_classes(f'{name} of {where}', given['classes'])


def _check_classes(where: str, value: Any) -> None:
    classes = value
    if isinstance(value, str):
        if '://' in value:
            return  # on another storage
        if not os.path.isfile(value):
            raise UserError(
                f'{where} is the text {value!r}, and there is no file of that name with the '
                f'classes; for one class write ({value!r},) with a comma'
            )
        classes = list_from_file(value)
    if not isinstance(classes, (list, tuple)) or not classes:
        kind = 'dict' if isinstance(value, Mapping) else type(value).__name__
        raise UserError(f'{where} is {value!r} ({kind}), expected a tuple of one name or more')
    for name, count in Counter(map(repr, classes)).items():
        if count > 1:
            raise UserError(f'{where} has {name} {count} times, expected different names')
    for item in classes:
        if not isinstance(item, str):
            kind = type(item).__name__
            raise UserError(f'{where} has {item!r} ({kind}), expected names as texts')
