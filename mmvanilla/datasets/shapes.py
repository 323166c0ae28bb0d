"""Generated scenes of six classes of shapes, for training a detector or segmentor in minutes.

A scene is two to five shapes, which may overlap, on a textured ground. The outline defines the
class; hue and texture are only likely for it. Every scene is written in two layouts, from one map
of the object at each pixel::

    ROOT/shapes.json                                         the arguments, written last
    ROOT/coco/annotations/instances_{train,val}2017.json
    ROOT/coco/{train,val}2017/*.jpg
    ROOT/ADEChallengeData2016/images/{training,validation}/*.jpg
    ROOT/ADEChallengeData2016/annotations/{training,validation}/*.png

Polygons follow pixel edges, so pycocotools rasterizes them to exactly the labelled pixels.
"""

import colorsys
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import UserError

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross', 'crescent')
PALETTE = [
    *((230, 60, 60), (235, 200, 50), (70, 200, 80)),
    *((60, 210, 220), (80, 90, 235), (220, 80, 210)),
]
METAINFO_DET = dict(classes=CLASSES, palette=PALETTE)
"""Classes of the COCO layout: category ids 1 to 6 in this order."""
METAINFO_SEG = dict(classes=('background', *CLASSES), palette=[(90, 90, 90), *PALETTE])
"""Classes of the label maps: 1 is the background, 2 to 7 the shapes, 0 unlabelled."""

FORMAT = 1  # raised when the same arguments give other files
STAMP = 'shapes.json'

TEXTURES = ('flat', 'stripes', 'gradient', 'dots', 'checks', 'rings')  # by class
DIAMETERS = (0.2, 0.55)  # of the circumscribed circle, in image sides
MIN_VISIBLE = 0.6  # of every shape, after all others are drawn
CRUMB = 0.05  # pieces below this share of the visible area are left unlabelled
SUPERSAMPLING = 4
TRIES = 20  # to place a shape so that all stay visible; after them it is left out

BACKGROUND, UNLABELLED = 0, -1  # in Scene.owner


# In COCO's layout, in ADE20K's, and the prefix of ADE20K's files.
SPLITS = (('train2017', 'training', 'ADE_train'), ('val2017', 'validation', 'ADE_val'))


class Scene(NamedTuple):
    """One picture and its labels.

    Attributes:
        image: RGB, uint8 of shape (H, W, 3).
        owner: int32 of shape (H, W): ``BACKGROUND``, ``UNLABELLED``, or k for the k-th shape.
        classes: Index into ``CLASSES`` of shapes 1, 2, ...
    """

    image: np.ndarray
    owner: np.ndarray
    classes: list[int]


def make_shapes(
    root: str | Path,
    train: int = 1600,
    val: int = 100,
    size: int = 160,
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> Path:
    """Write the data set to ``root``, unless it is there with the same arguments.

    The same arguments give the same bytes. All files appear at once or, after an error, none. A set
    with other arguments is replaced.

    Args:
        root: Folder to create; it may exist if it is empty or holds an earlier set.
        train: Number of training images.
        val: Number of validation images, of other random numbers.
        size: Height and width of every image in pixels, 64 or more.
        seed: Seed of the random numbers, 0 or more.
        on_image: Called after each image, for a progress bar.

    Returns:
        ``root`` as a path.

    Raises:
        UserError: If a number is not an integer or too small.
        FileExistsError: If ``root`` holds anything but an earlier set.
    """
    arguments = dict(train=train, val=val, size=size, seed=seed)
    for name, value in arguments.items():
        minimum = 64 if name == 'size' else 0
        if type(value) is not int or value < minimum:
            raise UserError(f'{name} must be an integer of at least {minimum}, not {value!r}')
    root = Path(root)
    stamp, found = dict(name='mmvanilla shapes', format=FORMAT, **arguments), _read_stamp(root)
    if found == stamp:
        return root
    if root.exists() and not found and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(
            f'{root} exists and is not a set of shapes (no valid {STAMP}); name another folder.'
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f'.{root.name}.') as scratch:
        fresh = Path(scratch, 'new')
        for stream, count in enumerate((train, val)):  # of random numbers
            _write_split(fresh, stream, count, size, seed, on_image)
        _write_json(fresh / STAMP, stamp)
        if root.exists():
            root.rename(Path(scratch, 'old'))
        fresh.rename(root)
    return root


def _read_stamp(root: Path) -> dict | None:
    """Return the arguments of the set in ``root``, None if there is no set."""
    try:
        stamp = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(stamp, dict) and stamp.get('name') == 'mmvanilla shapes'
    return stamp if ours else None


def _write_split(
    root: Path, stream: int, count: int, size: int, seed: int, on_image: Callable[[], None] | None
) -> None:
    coco, ade = root / 'coco', root / 'ADEChallengeData2016'
    coco_split, ade_split, prefix = SPLITS[stream]
    pictures = [coco / coco_split, ade / 'images' / ade_split]
    labels = ade / 'annotations' / ade_split
    for folder in (coco / 'annotations', *pictures, labels):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        scene = draw_scene(np.random.default_rng((seed, stream, index)), size)
        image_id = stream * 1_000_000 + index + 1
        name, ade_name = f'{image_id:012d}.jpg', f'{prefix}_{index + 1:08d}'
        jpeg = _encode('.jpg', scene.image[..., ::-1])
        (pictures[0] / name).write_bytes(jpeg)
        (pictures[1] / f'{ade_name}.jpg').write_bytes(jpeg)
        (labels / f'{ade_name}.png').write_bytes(_encode('.png', label_map(scene)))
        images.append(dict(id=image_id, file_name=name, width=size, height=size, license=1))
        for note in annotate(scene):
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **note))
        if on_image:
            on_image()
    document = dict(
        info=dict(description=f'Generated shapes, {coco_split}', version=str(FORMAT)),
        licenses=[dict(id=1, name='Generated pictures, free to use', url='')],
        images=images,
        categories=[
            dict(id=i, name=name, supercategory='shape') for i, name in enumerate(CLASSES, 1)
        ],
        annotations=annotations,
    )
    _write_json(coco / 'annotations' / f'instances_{coco_split}.json', document)


def _encode(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def _write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, separators=(',', ':')) + '\n')


def label_map(scene: Scene) -> np.ndarray:
    """Return ADE20K's label map (H, W): 0 unlabelled, 1 background, from 2 the classes."""
    labels = np.array([1, *(2 + c for c in scene.classes), 0], np.uint8)
    return labels[scene.owner]  # UNLABELLED, -1, picks the last


def annotate(scene: Scene) -> list[dict]:
    """Return COCO's annotations of the visible area of each shape, without ids."""
    masks = [(scene.owner == k).astype(np.uint8) for k in range(1, len(scene.classes) + 1)]
    return [
        dict(
            category_id=index + 1,
            bbox=list(cv2.boundingRect(mask)),
            area=int(mask.sum()),
            iscrowd=0,
            segmentation=[points.ravel().tolist() for points in trace(mask)],
        )
        for index, mask in zip(scene.classes, masks, strict=True)
    ]


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask without holes, along the edges of its pixels.

    OpenCV connects pixel centres. In a mask enlarged three times, ``(u + 1) // 3`` moves the centre
    next to an edge or corner onto it.

    Args:
        mask: bool of shape (H, W).

    Returns:
        One array (P, 2) of x, y for each 8-connected piece; pixel i spans i to i + 1.
    """
    enlarged = mask.astype(np.uint8).repeat(3, 0).repeat(3, 1)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [(contour[:, 0] + 1) // 3 for contour in contours]
    return [points[(points != np.roll(points, 1, axis=0)).any(axis=1)] for points in outlines]


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw a ground and two to five shapes on it, later ones over earlier ones."""
    image = _ground(rng, size)
    owner = np.full((size, size), BACKGROUND, np.int32)
    classes: list[int] = []
    areas: list[float] = []
    for _ in range(rng.integers(2, 6)):
        index = int(rng.integers(len(CLASSES)))
        for _ in range(TRIES):
            diameter = size * rng.uniform(*DIAMETERS)
            centre, turn = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0, 2 * np.pi)
            points = _place(OUTLINES[CLASSES[index]], centre, diameter / 2, turn)
            coverage = _rasterize(points, size)
            proposal = np.where(coverage >= 0.5, len(classes) + 1, owner)
            proposed_areas = [*areas, cv2.contourArea(points)]
            if _all_visible(proposal, proposed_areas):
                paint = _paint(rng, index, _frame(size, centre, turn), diameter)
                image += coverage[..., None] * (paint - image)
                owner, areas = proposal, proposed_areas
                classes.append(index)
                break
    for k in range(1, len(classes) + 1):
        _drop_crumbs(owner, k)
    return Scene(_photograph(rng, image), owner, classes)


def _all_visible(owner: np.ndarray, areas: list[float]) -> bool:
    """Return whether each shape shows enough of its area and no hole, unknown to polygons."""
    for k, area in enumerate(areas, start=1):
        mask = (owner == k).astype(np.uint8)
        if np.count_nonzero(mask) < MIN_VISIBLE * area:
            return False
        _, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if (tree[0, :, 3] >= 0).any():  # a contour inside another one
            return False
    return True


def _drop_crumbs(owner: np.ndarray, k: int) -> None:
    """Leave tiny pieces of shape ``k``, cut off by a shape above it, unlabelled, in place."""
    mask = (owner == k).astype(np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for piece in range(1, count):
        if stats[piece, cv2.CC_STAT_AREA] < CRUMB * np.count_nonzero(mask):
            owner[pieces == piece] = UNLABELLED


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blur a little, add sensor noise and round to bytes."""
    photo: np.ndarray = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    photo += rng.normal(0, rng.uniform(0.005, 0.03), photo.shape)
    return np.clip(np.rint(photo * 255), 0, 255).astype(np.uint8)


def _arc(start: float, stop: float, radius: float = 1.0, centre: float = 0.0) -> np.ndarray:
    """Return points on an arc, (P, 2), with the centre on the x axis."""
    angles = np.linspace(start, stop, 48)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1) + (centre, 0)


def _polar(radii: list[float]) -> np.ndarray:
    """Return corners at equal angles with the given distances from the centre."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _cross() -> np.ndarray:
    """Return a plus."""
    width = 0.35  # half of an arm's
    length = np.sqrt(1 - width**2)
    arm = np.array([(length, -width), (length, width), (width, width)])
    quarter = np.array([(0, 1), (-1, 0)])  # row vectors turn by 90 degrees
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, i) for i in range(4)])


def _crescent() -> np.ndarray:
    """Return the unit disc without a disc of radius ``bite`` at ``shift`` on the x axis."""
    bite, shift = 0.75, 0.5
    x = (1 + shift**2 - bite**2) / (2 * shift)  # where the circles meet
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - shift)
    return np.concatenate(
        [_arc(outer, 2 * np.pi - outer), _arc(2 * np.pi - inner, inner, bite, shift)]
    )


# (P, 2) float64, on the unit circle and inside it.
OUTLINES = dict(
    circle=_arc(0, 2 * np.pi),
    square=_polar([1] * 4),
    triangle=_polar([1] * 3),
    star=_polar([1, 0.5] * 5),
    cross=_cross(),
    crescent=_crescent(),
)


def _place(outline: np.ndarray, centre: np.ndarray, radius: float, turn: float) -> np.ndarray:
    """Scale, rotate by ``turn`` radians and move an outline; (P, 2) float32 in pixels."""
    cos, sin = np.cos(turn), np.sin(turn)
    return (radius * outline @ [[cos, sin], [-sin, cos]] + centre).astype(np.float32)


def _rasterize(points: np.ndarray, size: int) -> np.ndarray:
    """Return the share of each pixel inside a polygon, float32 of shape (H, W)."""
    canvas = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
    bits = 4  # fillPoly uses fixed-point numbers, with 0 at the centre of the first pixel
    corners = np.rint((points * SUPERSAMPLING - 0.5) * 2**bits).astype(np.int32)
    cv2.fillPoly(canvas, [corners], 255, shift=bits)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _paint(
    rng: np.random.Generator, index: int, frame: tuple[np.ndarray, np.ndarray], diameter: float
) -> np.ndarray:
    """Return the colour of a shape of class ``index`` at every pixel, (H, W, 3) float32."""
    hue = rng.normal(index / len(CLASSES), 0.05) if rng.random() < 0.95 else rng.random()
    texture = TEXTURES[index] if rng.random() < 0.9 else rng.choice(TEXTURES)
    saturation, value = rng.uniform(0.5, 1), rng.uniform(0.65, 1)
    dark = _rgb(hue + rng.normal(0, 0.02), saturation, value * rng.uniform(0.35, 0.6))
    light = _rgb(hue, saturation, value)
    period = max(5.0, diameter * rng.uniform(0.15, 0.25))
    mix = _texture(texture, *frame, diameter, period)[..., None]
    return light + mix * (dark - light)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _texture(name: str, u: np.ndarray, v: np.ndarray, diameter: float, period: float) -> np.ndarray:
    """Return the share of the darker colour at pixel offsets ``u``, ``v`` from the centre."""
    if name == 'flat':
        return np.zeros_like(u)
    if name == 'gradient':
        return np.clip(u / diameter + 0.5, 0, 1)
    wave_u, wave_v = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    wave = {
        'stripes': wave_u,
        'dots': wave_u + wave_v - 0.5,
        'checks': 2 * wave_u * wave_v,
        'rings': np.sin(2 * np.pi * np.hypot(u, v) / period),
    }[name]
    return np.clip(0.5 + 1.5 * wave, 0, 1)


def _frame(size: int, centre: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets of pixel centres from ``centre`` along axes rotated by ``turn`` radians."""
    ys, xs = np.mgrid[:size, :size].astype(np.float32) + 0.5
    x, y = xs - np.float32(centre[0]), ys - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cos * x + sin * y, cos * y - sin * x


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a dull colour with a gradient, faint stripes and noise at three scales, (H, W, 3)."""
    base = _rgb(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.25, 0.85))
    u, v = _frame(size, np.array([size / 2, size / 2]), rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0, 0.3) * u / size
    light += rng.uniform(0, 0.06) * np.sin(2 * np.pi * v / (size * rng.uniform(0.04, 0.2)))
    image = base + light[..., None]
    for cells in (4, 16, 48):
        noise = rng.normal(0, rng.uniform(0, 0.06), (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 1).astype(np.float32)
