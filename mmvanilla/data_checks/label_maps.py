"""Checks of the label maps of semantic segmentation, against what mmseg makes of them."""

from collections.abc import Sequence
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

from .findings import Finding, fault, remark
from .images import BROKEN, image_size, open_image, too_large

UNLABELLED = 255  # mmseg's, whatever a head ignores


class Labels(NamedTuple):
    """How mmseg reads the numbers in a data set's label maps.

    Attributes:
        classes: The classes that are trained.
        shift: Whether classes count from 1 and 0 is unlabelled (``reduce_zero_label``).
        subset: The label of each of the file's classes, where the config takes only some.
        ignored: The label that the loss leaves out, of the heads' ``ignore_index``.
        backend: What decodes the files, ``imdecode_backend`` of the loading step.
    """

    classes: Sequence[str]
    shift: bool = False
    subset: dict[int, int] | None = None
    ignored: int | None = UNLABELLED
    backend: str = 'pillow'

    def label(self, value: int) -> int:
        """The label that a number in a file becomes."""
        if self.shift:
            value = UNLABELLED if value in (0, UNLABELLED) else value - 1
        return (self.subset or {}).get(value, value)

    @property
    def last(self) -> int:
        """The highest number in a file that is a class."""
        return len(self.subset or self.classes) - 1 + self.shift


def check_label_map(
    path: str, image_path: str, labels: Labels, turn: bool = True, seen: set[int] | None = None
) -> list[Finding]:
    """Decode a label map and check it.

    Args:
        path: The label map.
        image_path: Its image, of which only the header is read.
        labels: How its numbers are read.
        turn: Whether training turns images as their EXIF data say.
        seen: Takes the numbers that are in the file.
    """
    try:
        with open_image(path) as image:
            if reason := too_large(image.size, labels.backend):
                where = f'{path} ({reason} of LoadAnnotations)'
                return [fault('label map too large to be read', where)]
            size = image.size
        with open(path, 'rb') as file:
            values = mmcv.imfrombytes(file.read(), 'unchanged', backend=labels.backend)
        if values is None:
            raise ValueError(f'{labels.backend} does not decode it')
    except FileNotFoundError:
        return [fault('missing label map', path)]
    except BROKEN as error:
        return [fault('unreadable or truncated label map', f'{path} ({error})')]
    if found := several_channels(values, image):
        return [fault('label map of several channels', f'{path} ({"".join(found)})')]
    findings = []
    try:
        with open_image(image_path) as picture:
            expected = image_size(picture, turn)
    except BROKEN:  # told by the check of the image
        expected = size
    if size != expected:
        where = '{} ({} x {}, not {} x {})'.format(path, *size, *expected)
        findings.append(fault("label map of another size than its image's", where))
    numbers = np.unique(values.astype(np.int64)).tolist()
    if seen is not None:
        seen.update(numbers)
    used = {*range(len(labels.classes)), labels.ignored}
    # Over 255, mmseg cuts a number to 8 bits.
    wrong = [n for n in numbers if n > 255 or labels.label(n) not in used]
    if wrong:
        worst = wrong[-1] if wrong[-1] > labels.last else wrong[0]
        where = f'{path} (label {worst}, not 0 to {labels.last}'
        if labels.label(worst) == UNLABELLED:
            where += f'; it becomes {UNLABELLED}, but ignore_index of the head is {labels.ignored}'
        where += ')'
        findings.append(fault('label out of range', where))
    if all(labels.label(n) == labels.ignored for n in numbers):
        findings.append(remark('label map without a label', path, 'learns nothing from it'))
    return findings


def several_channels(values: np.ndarray, image: Image.Image) -> tuple[str, str] | None:
    """Tell the mode of a label map that is not decoded to (H, W), and what to do about it."""
    if values.squeeze().ndim == 2:
        return None
    mode, advice = f'mode {image.mode}', ''
    if image.mode in ('1', 'P', 'PA'):
        advice = "; OpenCV makes colours of it, set imdecode_backend='pillow' in LoadAnnotations"
    elif values.ndim == 3 and (values == values[..., :1]).all():
        advice = '; they are alike, write one of them'
    return mode, advice


def missing_classes(labels: Labels, seen: set[int], trained: bool) -> list[Finding]:
    """Remark on classes that are in none of the label maps, and guess why.

    Args:
        labels: How numbers are read.
        seen: The numbers that are in the files.
        trained: Whether the data set is trained on.
    """
    found = {labels.label(number) for number in seen}
    findings = []
    for i, name in enumerate(labels.classes if seen else ()):
        if i in found and i != labels.ignored:
            continue
        old = {new: number for number, new in (labels.subset or {}).items()}.get(i, i)
        number, hint = old + labels.shift, ''
        if i == labels.ignored:
            hint = '; it is the ignore_index of the head'
        elif labels.shift and 0 in seen and number == labels.last:
            hint = '; labels seem to count from 0, for which reduce_zero_label must be False'
        elif UNLABELLED in seen and labels.label(UNLABELLED) == labels.ignored:
            hint = f'; {UNLABELLED}, which is there, is ignored: write {number} for this class'
        elif not labels.shift and number == 0 and labels.last + 1 in seen:
            hint = '; labels seem to count from 1, for which reduce_zero_label must be True'
        training = 'never learns it' if trained else 'gives it no score'
        findings.append(remark('class in no label map', f'{name!r} ({number}{hint})', training))
    return findings
