"""Export: whole models as plain functions of an image, in formats that run without this package."""

import copy

from mmengine.model import BaseModel
from torch import nn

from ...errors import UserError
from ...models import fuse
from .agreement import Agreement, compare
from .formats import FORMATS, open_model, write_model
from .pooling import make_exportable
from .reference import pasted, reference

__all__ = [
    'FORMATS',
    'Agreement',
    'compare',
    'exportable',
    'open_model',
    'pasted',
    'reference',
    'write_model',
]


def exportable(model: BaseModel, features: bool = False, label_map: bool = False) -> nn.Module:
    """Return a fused copy of a model as a plain function of an image.

    Args:
        model: RetinaNet, Faster or Mask R-CNN of mmdet, a segmentor of mmseg or a classifier of
            mmpretrain.
        features: Only the backbone with its neck.
        label_map: A segmentor's labels instead of its logits.

    Returns:
        A module that maps an image (1, 3, H, W), BGR of 0 to 255, to a tuple of tensors, whose
        names are its ``output_names``.

    Raises:
        UserError: If the model cannot be fused, or is of a kind that is not known here.
    """
    model = make_exportable(fuse(copy.deepcopy(model).eval(), neck_and_heads=True))
    return wrap(model, features, label_map).eval().requires_grad_(False)


def wrap(model: BaseModel, features: bool, label_map: bool) -> nn.Module:
    """Choose the function for a model."""
    from .features import Classifier, Features, Segmentor

    if features:
        return Features(model)
    if hasattr(model, 'decode_head'):
        return Segmentor(model, label_map)
    if hasattr(model, 'head'):
        return Classifier(model)
    # Only here, so that segmentors can be exported without mmdet.
    from mmdet.models.dense_heads import RetinaHead
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

    from .detectors import OneStage, TwoStage

    roi_head = getattr(model, 'roi_head', None)
    if isinstance(roi_head, StandardRoIHead) and not isinstance(roi_head, CascadeRoIHead):
        return TwoStage(model)
    if isinstance(getattr(model, 'bbox_head', None), RetinaHead):
        return OneStage(model)
    raise UserError(
        f'{type(model).__name__} cannot be exported whole, expected RetinaNet, Faster R-CNN, '
        'Mask R-CNN, a segmentor or a classifier; export its features'
    )
