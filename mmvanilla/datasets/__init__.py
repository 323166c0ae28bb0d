"""A small generated data set for detectors and segmentors."""

from .shapes import CLASSES, METAINFO_DET, METAINFO_SEG, PALETTE, make_shapes

__all__ = ['CLASSES', 'METAINFO_DET', 'METAINFO_SEG', 'PALETTE', 'make_shapes']
