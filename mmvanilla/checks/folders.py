"""Folders of images and label maps against the loaded files."""

import os
from typing import Any

from PIL import Image

from .items import label_map_step
from .source import Source


def compare_folders(leaf: Any, images: set[str], maps: set[str], source: Source) -> None:
    """Compare folders of images, and of label maps, with the loaded ones."""
    if getattr(leaf, '_indices', None) is not None:  # the user's choice is no loss
        return
    if hasattr(leaf, 'folder_to_idx'):
        source.find_renamed(leaf.folder_to_idx)
        for path in _image_files(leaf.img_prefix) - images:
            source.lose('images', 'with another suffix or in no class folder', path, True)
        source.raw_images = source.images + source.lost.total()
        return
    suffix, map_suffix = leaf.img_suffix, leaf.seg_map_suffix
    folder, map_folder = (leaf.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    found = _image_files(map_folder) if map_folder else set()
    unused = found - maps
    for path in sorted(_image_files(folder) - images - found):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        partner = os.path.normpath(os.path.join(map_folder or '', stem + map_suffix))
        if not map_folder or partner in unused:
            source.lose('images', f'whose suffix is not {suffix!r}', path, True)
            unused.discard(partner)
    source.raw_images = source.images + source.lost.total()
    alone = sorted(path for path in unused - images if path.endswith(map_suffix))
    source.lose('label maps', 'without an image', next(iter(alone), ''), True, len(alone))
    if label_map_step(leaf) and (missing := sorted(maps - found)):
        source.add(f'{len(missing)} images have no label map, such as {missing[0]!r}')


def _image_files(folder: str) -> set[str]:
    """Return all image files below a folder."""
    suffixes = Image.registered_extensions()
    return {
        os.path.normpath(os.path.join(parent, name))
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes
    }
