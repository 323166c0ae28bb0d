"""Records of pictures and their labels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Size = tuple[int, int]


class Shape(NamedTuple):
    """A labelled object.

    Attributes:
        name: Its class.
        box: Left, top, right and bottom edge in pixels.
        polygons: Outlines, x and y in turn, in pixels; empty if only the box is labelled.
        crowd: Whether it is a crowd or difficult, so that metrics ignore it.
    """

    name: str
    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...] = ()
    crowd: bool = False


class Item(NamedTuple):
    """A picture as a reader finds it; its labels are not parsed yet.

    Attributes:
        image: The image file; it may be missing.
        name: Its path below the source's folder of images.
        labels: The label file, for messages.
        parse: Returns the objects, given width and height in pixels as EXIF turns the image.
        split: ``train``, ``val``, ``test`` or ''.
        label_map: The file of a mask instead of objects.
    """

    image: Path
    name: str
    labels: Path
    parse: Callable[[Size], list[Shape]]
    split: str = ''
    label_map: Path | None = None


class Found(NamedTuple):
    """The pictures of a source, and its classes in order if it declares them."""

    items: Iterator[Item]
    classes: tuple[str, ...] | None


class Picture(NamedTuple):
    """A picture with checked labels, see ``Item``."""

    image: Path
    name: str
    size: Size
    shapes: list[Shape]
    split: str
    label_map: Path | None


def check_size(found: tuple, size: Size) -> None:
    """Raise a ValueError if width and height in a label file are not those of the image."""
    if tuple(found) != size:
        w, h = found
        raise ValueError(f'size {w} x {h}, but the image has {size[0]} x {size[1]} pixels')


def polygon(name: str, points: list[tuple[float, float]]) -> Shape:
    """Return the object of one outline.

    Raises:
        ValueError: If it has fewer than three points.
    """
    if len(points) < 3:
        raise ValueError(f'a polygon of {len(points)} points, expected 3 or more')
    xs, ys = zip(*points, strict=True)
    flat = tuple(value for point in points for value in point)
    return Shape(name, (min(xs), min(ys), max(xs), max(ys)), (flat,))
