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
    where only ``val`` is missing).

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
    names = [sorted(groups)[i] for i in order]
    done: list[Picture] = []
    for split in ('test', 'val', 'train'):  # the rest is train
        wanted = max(shares.get(split, 0) * len(pictures), 0.5 * bool(shares.get(split)))
        chosen = 0
        while names and (split == 'train' or chosen + 0.5 * len(groups[names[-1]]) <= wanted):
            members = groups[names.pop()]
            chosen += len(members)
            done += [picture._replace(split=split) for picture in members]
        if not chosen and (split == 'train' or shares.get(split)):
            raise UserError(
                f'split {split!r} would be empty: {len(pictures)} images in {len(groups)} groups, '
                f'shares {shares}; give more images, other shares or another --group'
            )
    return done


def _group(picture: Picture, pattern: str | None) -> str:
    stem = picture.name.rpartition('.')[0] or picture.name
    if pattern is None:
        return COPY.sub('', stem)
    match = re.search(pattern, picture.name)
    if match is None:
        raise UserError(f'--group {pattern!r} does not match {picture.name!r}; correct it')
    return match[1] if match.groups() else match[0]
