"""Check the pictures of a reader: sound ones are taken, all others counted by reason."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..checks.files import read_header
from ..errors import InputError, UserError, sentence
from .records import Found, Item, Picture, Shape, Size

EXAMPLES = 3  # sentences that are kept of each reason
SLACK = 1.0  # pixels that a box may reach beyond its image without a word


class Left(NamedTuple):
    """A reason to leave something out."""

    what: str
    reason: str


@dataclass
class Taken:
    """The sound pictures and the account of the others.

    Attributes:
        pictures: The pictures.
        classes: The classes in order.
        left: Numbers by reason.
        examples: Up to ``EXAMPLES`` sentences for each reason.
    """

    pictures: list[Picture] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    left: Counter = field(default_factory=Counter)
    examples: dict[Left, list[str]] = field(default_factory=dict)

    def leave(self, what: str, reason: str, example: str) -> None:
        """Count one thing that is left out or changed."""
        key = Left(what, reason)
        self.left[key] += 1
        if self.left[key] <= EXAMPLES:
            self.examples.setdefault(key, []).append(example)


def take(
    found: Found,
    check: Callable[[Item, Size], None] = lambda item, size: None,
    rename: dict[str, str] | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Taken:
    """Read all labels. A picture with a damaged label is left out whole.

    Args:
        found: Result of a reader.
        check: Raises a ValueError for a damaged mask.
        rename: New names of classes by their old ones.
        on_image: Called after each image.

    Raises:
        UserError: If nothing is left, or two classes differ in case or blanks only.
    """
    rename = rename or {}
    taken = Taken()
    labelled, counts = 0, Counter[str]()
    seen: set[Path] = set()
    for item in found.items:
        on_image()
        try:
            header = read_header(f'image {str(item.image)!r}', str(item.image))
            if header is None:
                raise InputError(f'image {str(item.image)!r} has a format that Pillow cannot read')
        except InputError as error:
            missing = not item.image.exists()
            reason = 'without an image' if missing else 'that cannot be read'
            example = f'{item.labels}: {item.name}' if missing else str(error)
            taken.leave('labels' if missing else 'images', reason, example)
            continue
        try:
            shapes = [s._replace(name=rename.get(s.name, s.name)) for s in item.parse(header.size)]
            check(item, header.size)
            clipped = (_clip(shape, header.size, item, taken) for shape in shapes)
            sound = [shape for shape in clipped if shape]
        except FileNotFoundError:
            taken.leave('images', 'without labels', str(item.image))
            continue
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            taken.leave('images', 'with a damaged label', f'{item.labels}: {sentence(error)}')
            continue
        if not item.labels.exists():
            taken.leave('images', 'without labels, kept as background', str(item.image))
        if item.image.resolve() in seen:
            taken.leave('images', 'listed twice', str(item.image))
            continue
        seen.add(item.image.resolve())
        counts.update(shape.name for shape in sound)
        labelled += bool(sound) or item.label_map is not None
        split, label_map = item.split, item.label_map
        picture = Picture(item.image, item.name, header.size, sound, split, label_map)
        taken.pictures.append(picture)
    if not labelled:
        why = ''
        for key, number in taken.left.most_common(1):
            why = f'; {number} {key.what} {key.reason} ({taken.examples[key][0]})'
        given = 'sound label' if taken.left else 'object'
        raise UserError(f'no image has a {given}{why}; correct the labels or name --format')
    names = [rename.get(name, name) for name in found.classes or sorted(counts)]
    taken.classes = tuple(dict.fromkeys([*names, *sorted(set(counts) - set(names))]))
    _check_names(taken.classes)
    return taken


def _clip(shape: Shape, size: Size, item: Item, taken: Taken) -> Shape | None:
    """Return an object with a box inside the image, None if nothing is left.

    Raises:
        ValueError: If a coordinate is not a finite number or the object has no name.
    """
    if not shape.name.strip():
        raise ValueError('an object without a class')
    values = [*shape.box, *(value for points in shape.polygons for value in points)]
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f'an object of {shape.name!r} with a coordinate that is no finite number')
    width, height = size
    left, top, right, bottom = shape.box
    clipped = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    beyond = max(abs(a - b) for a, b in zip(shape.box, clipped, strict=True))
    where = f'{item.labels}: an object of {shape.name!r} in {item.name}'
    if clipped[2] - clipped[0] <= 0 or clipped[3] - clipped[1] <= 0:
        outside = right > left and bottom > top
        taken.leave('objects', 'outside their image' if outside else 'without area', where)
        return None
    if beyond > SLACK:
        taken.leave('objects', 'cut at the edge of their image (kept)', where)
    polygons = tuple(
        tuple(min(max(value, 0), size[i % 2]) for i, value in enumerate(points))
        for points in shape.polygons
    )
    return shape._replace(box=clipped, polygons=polygons)


def _check_names(classes: tuple[str, ...]) -> None:
    """Raise a UserError for classes that differ in case or blanks only."""
    known: dict[str, str] = {}
    for name in classes:
        other = known.setdefault(''.join(name.split()).casefold(), name)
        if other != name:
            raise UserError(
                f'classes {other!r} and {name!r} differ in case or blanks only; '
                f'merge them with --rename {name!r}={other!r}'
            )
