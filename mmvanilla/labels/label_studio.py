"""Label Studio: one JSON file of tasks, with rectangles and polygons in per cent."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlparse

from ..errors import UserError
from .files import SUFFIXES, documents, files_below, read_json
from .records import Found, Item, Shape, Size, check_size, polygon

LABELS = dict(rectanglelabels='rectangle', polygonlabels='polygon')


def is_format(source: Path) -> bool:
    """Return whether there is a JSON file of tasks."""
    return any(
        b'"annotations"' in text and b'"data"' in text and b'"result"' in text
        for text in (file.read_bytes() for file in documents(source, '.json'))
    )


def read(source: Path) -> Found:
    """Find the images that the tasks name, anywhere below the folder.

    Raises:
        UserError: If a file is no list of tasks.
    """
    found = []
    for file in documents(source, '.json'):
        try:
            tasks = read_json(file)
        except ValueError as error:
            raise UserError(f'{str(file)!r} is {error}; export it again') from error
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise UserError(f'{str(file)!r} is no list of tasks; export the project as JSON')
        found += [(file, task) for task in tasks]
    return Found(_items(source, found), None)


def _items(source: Path, tasks: list[tuple[Path, dict]]) -> Iterator[Item]:
    folder = source if source.is_dir() else source.parent
    images = {path.name: path for path in files_below(folder, *SUFFIXES)}
    for file, task in tasks:
        values = [v for v in (task.get('data') or {}).values() if isinstance(v, str)]
        urls = [v for v in values if v.lower().endswith(SUFFIXES)] or values or ['']
        name = Path(unquote(urlparse(urls[0]).path or urls[0])).name
        # Uploaded files are called HASH-NAME.
        short = name.partition('-')[2]
        image = images.pop(name, None) or images.pop(short, folder / (name or '?'))
        yield Item(image, image.name, file, partial(parse_task, task))
    for image in images.values():
        yield Item(image, image.name, source, partial(parse_task, {}))


def parse_task(task: dict, size: Size) -> list[Shape]:
    """Read one task, of its first annotation that is not cancelled.

    Raises:
        FileNotFoundError: If it has none.
        ValueError: If it is damaged, or of a picture of another size.
    """
    done = [each for each in task.get('annotations') or () if not each.get('was_cancelled')]
    if not done:
        raise FileNotFoundError
    if len(done) > 1:
        raise ValueError(f'{len(done)} annotations of one image; keep one')
    shapes = []
    for result in done[0].get('result') or ():
        kind = result.get('type')
        if kind == 'choices':
            continue
        if kind not in LABELS:
            raise ValueError(f'a result of type {kind!r}, expected {" or ".join(LABELS)}')
        width, height = (result.get(f'original_{side}') for side in ('width', 'height'))
        check_size((width or size[0], height or size[1]), size)
        value = result.get('value') or {}
        (name, *others) = value.get(kind) or ['']
        if not name or others:
            raise ValueError(f'{1 + len(others) if name else 0} labels of one object, expected 1')
        shapes.append(_shape(str(name), kind, value, size))
    return shapes


def _shape(name: str, kind: str, value: dict, size: Size) -> Shape:
    across, down = size[0] / 100, size[1] / 100
    try:
        if kind == 'polygonlabels':
            return polygon(name, [(x * across, y * down) for x, y in value['points']])
        x, y, width, height = (float(value[key]) for key in ('x', 'y', 'width', 'height'))
    except (KeyError, TypeError) as error:
        raise ValueError(f'an object of {name!r} without {error}') from error
    if value.get('rotation'):
        raise ValueError(f'a rotated box of {name!r}; draw a polygon')
    return Shape(name, (x * across, y * down, (x + width) * across, (y + height) * down))
