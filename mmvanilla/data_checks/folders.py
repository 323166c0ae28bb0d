"""Checks of images in one folder a class, as mmpretrain reads them."""

import os
from collections.abc import Sequence

from .findings import Finding, Kind

NO_IMAGES = Kind('nothing to train or test on', 'stops')
EMPTY_CLASS = Kind('class folder without images', 'never learns the class')
NUMBER = Kind('number of folders other than of classes', 'stops')
ORDER = Kind('folders in another order than the classes', 'mixes the labels up')
ANNOTATION = Kind('line that is not a file and a label in range', 'stops')
OTHER_FILE = Kind('file of another kind', 'leaves it out', False)


def check_folders(
    root: str, classes: Sequence[str] | None, extensions: Sequence[str]
) -> tuple[list[str], list[Finding]]:
    """List the images below one folder a class and check the folders.

    Args:
        root: The folder of the class folders; mmpretrain numbers them by name.
        classes: The config's classes, if it names them.
        extensions: Lower-case suffixes of images.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    images, findings = [], []
    for name in names:
        files = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(os.path.join(root, name))
            for file in sorted(files)
        ]
        good = [file for file in files if file.lower().endswith(tuple(extensions))]
        known = set(good)
        findings += [Finding(OTHER_FILE, file) for file in files if file not in known]
        if not good:
            findings.append(Finding(EMPTY_CLASS, os.path.join(root, name)))
        images += good
    if classes is not None and len(classes) != len(names):
        missing = [name for name in classes if name not in names]
        # Where no name is the same, as in ImageNet, folders are not called like their classes.
        told = missing and len(missing) < len(classes)
        detail = f', without {missing[0]!r}' if told else ''
        findings.append(Finding(NUMBER, f'{len(names)} for {len(classes)} in {root}{detail}'))
    elif classes is not None and set(classes) == set(names) and list(classes) != names:
        findings.append(Finding(ORDER, root))
    if not images:
        findings.append(Finding(NO_IMAGES, root))
    return images, findings


def check_list(
    file: str, root: str, classes: Sequence[str] | None
) -> tuple[list[str], list[Finding]]:
    """List the images that a file names, one and its label a line, and check the labels."""
    images, findings = [], []
    with open(file, encoding='utf-8') as stream:
        lines = [line.strip() for line in stream if line.strip()]
    for line in lines:
        name, _, label = line.rpartition(' ')
        if not name or not label.isdigit() or (classes and int(label) >= len(classes)):
            findings.append(Finding(ANNOTATION, f'{file}: {line!r}'))
        else:
            images.append(os.path.join(root, name))
    if not images:
        findings.append(Finding(NO_IMAGES, file))
    return images, findings
