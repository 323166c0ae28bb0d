"""Split pictures without a split of their own by share."""

import re
from collections import defaultdict

import numpy as np

from ..errors import UserError
from .records import Picture

# Augmented copies of one image in Roboflow's exports: NAME_jpg.rf.HASH.jpg.
COPY = re.compile(r'\.rf\.[0-9a-zA-Z]+$')


def split_pictures(
    pictures: list[Picture], shares: dict[str, float], seed: int = 0, group: str | None = None
) -> list[Picture]:
    """Return the pictures with a split each.

    The splits of the source are kept if it has ``train`` and ``val`` (``test`` serves as ``val``
    where only ``val`` is missing). Otherwise each class is in every split if there are groups
    enough.

    Args:
        pictures: The pictures.
        shares: Share of the images by split.
        seed: Seed of the random numbers.
        group: Pattern of the part of a name that images of one group have in common, such as a
            video; a group is never split. None groups the copies of Roboflow's exports only.

    Raises:
        UserError: If a pattern does not match or a split would be empty.
    """
    named = {picture.split for picture in pictures}
    if {'train', 'test'} <= named and 'val' not in named:
        pictures = [p._replace(split='val') if p.split == 'test' else p for p in pictures]
        named = {picture.split for picture in pictures}
    if {'train', 'val'} <= named:
        # Images in no split of the source are learned from.
        return [p._replace(split=p.split or 'train') for p in pictures]
    groups = defaultdict(list)
    for picture in pictures:
        groups[_group(picture, group)].append(picture)
    order = np.random.default_rng(seed).permutation(len(groups))
    names = sorted(groups)
    left = {names[i]: groups[names[i]] for i in order}
    done: list[Picture] = []
    for split in ('test', 'val', 'train'):
        share = shares.get(split, 0)
        wanted = max(share * len(pictures), 0.5 * bool(share))
        chosen = list(left) if split == 'train' else _choose(left, wanted)
        if not chosen and (split == 'train' or share):
            raise UserError(
                f'split {split!r} would be empty: {len(pictures)} images in {len(groups)} groups, '
                f'shares {shares}; give more images, other shares or another --group'
            )
        for name in chosen:
            done += [picture._replace(split=split) for picture in left.pop(name)]
    return done


def _choose(groups: dict[str, list[Picture]], wanted: float) -> list[str]:
    """Choose groups of about ``wanted`` images, which share all classes with the other groups."""
    kinds = {
        name: {shape.name for picture in members for shape in picture.shapes}
        for name, members in groups.items()
    }
    holders = defaultdict(list)
    for name, found in kinds.items():
        for kind in found:
            holders[kind].append(name)
    left = {kind: len(names) for kind, names in holders.items()}
    chosen: dict[str, None] = {}
    number = 0

    def choose(name: str, spare: bool) -> bool:
        """Choose a group if it fits, with ``spare`` only if its classes stay in another one."""
        nonlocal number
        size = len(groups[name])
        if name in chosen or number + 0.5 * size > wanted:
            return False
        if spare and any(left[kind] == 1 for kind in kinds[name]):
            return False
        chosen[name] = None
        number += size
        for kind in kinds[name]:
            left[kind] -= 1
        return True

    for kind in sorted(holders, key=lambda kind: (len(holders[kind]), kind)):  # the rarest first
        if left[kind] == len(holders[kind]):
            any(choose(name, spare=True) for name in holders[kind])
    for spare in (True, False):
        for name in groups:
            choose(name, spare)
    return list(chosen)


def _group(picture: Picture, pattern: str | None) -> str:
    stem = picture.name.rpartition('.')[0] or picture.name
    if pattern is None:
        return COPY.sub('', stem)
    match = re.search(pattern, picture.name)
    if match is None:
        raise UserError(f'--group {pattern!r} does not match {picture.name!r}; correct it')
    return match[1] if match.groups() else match[0]
