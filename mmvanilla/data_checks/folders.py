"""Checks of images in one folder a class, as mmpretrain reads them."""

import os
from collections.abc import Sequence

from .findings import Finding, fault, remark


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
        others = sorted(set(files) - set(good))
        findings += [remark('file of another kind', file, 'leaves it out') for file in others]
        if not good:
            folder = os.path.join(root, name)
            findings.append(fault('class folder without images', folder, 'never learns the class'))
        images += good
    if classes is not None and len(classes) != len(names):
        missing = [name for name in classes if name not in names]
        # Where no name is the same, as in ImageNet, folders are not called like their classes.
        told = missing and len(missing) < len(classes)
        where = f'{len(names)} for {len(classes)} in {root}'
        where += f', without {missing[0]!r}' if told else ''
        findings.append(fault('number of folders other than of classes', where))
    elif classes is not None and set(classes) == set(names) and list(classes) != names:
        order = 'folders in another order than the classes'
        findings.append(fault(order, root, 'mixes the labels up'))
    if not images:
        findings.append(fault('nothing to train or test on', root))
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
            kind = 'line that is not a file and a label in range'
            findings.append(fault(kind, f'{file}: {line!r}'))
        else:
            images.append(os.path.join(root, name))
    if not images:
        findings.append(fault('nothing to train or test on', file))
    return images, findings
