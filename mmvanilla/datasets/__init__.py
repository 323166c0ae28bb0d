"""A small generated data set, loading that names bad files, and checks of data (``checks``)."""

from .loading import LoadAnnotationsChecked, LoadImageFromFileChecked, use_checked_loading
from .shapes import CLASSES, METAINFO_DET, METAINFO_SEG, PALETTE, make_shapes

__all__ = [
    'CLASSES',
    'METAINFO_DET',
    'METAINFO_SEG',
    'PALETTE',
    'LoadAnnotationsChecked',
    'LoadImageFromFileChecked',
    'make_shapes',
    'use_checked_loading',
]
