"""A small generated data set, in the layouts of COCO and of ADE20K."""

from .shapes import CLASSES, METAINFO_DET, METAINFO_SEG, PALETTE, make_shapes

__all__ = ['CLASSES', 'METAINFO_DET', 'METAINFO_SEG', 'PALETTE', 'make_shapes']
