"""A small generated data set, single objects of it, checked loading, and checks of data."""

from .crops import crop_objects
from .loading import LoadAnnotationsChecked, LoadImageFromFileChecked, use_checked_loading
from .shapes import CLASSES, METAINFO_DET, METAINFO_SEG, PALETTE, make_shapes

__all__ = [
    'CLASSES',
    'METAINFO_DET',
    'METAINFO_SEG',
    'PALETTE',
    'LoadAnnotationsChecked',
    'LoadImageFromFileChecked',
    'crop_objects',
    'make_shapes',
    'use_checked_loading',
]
