"""Checks of the label maps of semantic segmentation."""

import numpy as np
from PIL import Image

from .findings import Finding, fault, remark
from .images import BROKEN, image_size

IGNORED = 255


def check_label_map(
    path: str, image_path: str, num_labels: int, shift: bool, turn: bool = True
) -> list[Finding]:
    """Decode a label map and check it.

    Args:
        path: The label map.
        image_path: Its image, of which only the header is read.
        num_labels: Number of classes that the label map may have.
        shift: Whether classes count from 1 and 0 is unlabelled (``reduce_zero_label``).
        turn: Whether training turns images as their EXIF data say.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except FileNotFoundError:
        return [fault('missing label map', path)]
    except BROKEN as error:
        return [fault('unreadable or truncated label map', f'{path} ({error})')]
    if labels.ndim != 2:
        return [fault('label map of several channels', f'{path} (mode {image.mode})')]
    findings = []
    try:
        with Image.open(image_path) as picture:
            size = image_size(picture, turn)
    except BROKEN:  # told by the check of the image
        size = image.size
    if image.size != size:
        where = '{} ({} x {}, not {} x {})'.format(path, *image.size, *size)
        findings.append(fault("label map of another size than its image's", where))
    values = labels.astype(np.int64).ravel()
    values = values[values != IGNORED]
    last = num_labels - 1 + shift
    if values.size and (values.max() > last or values.min() < 0):
        wrong = values.max() if values.max() > last else values.min()
        findings.append(fault('label out of range', f'{path} (label {wrong}, not 0 to {last})'))
    if not (values >= shift).any():
        findings.append(remark('label map without a label', path, 'learns nothing from it'))
    return findings
