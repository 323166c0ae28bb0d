"""Export: whole models as plain functions of an image, in formats that run without this package."""

import copy

from mmengine.model import BaseModel

from ...models import fuse
from .agreement import Agreement, compare, relative_error
from .formats import FORMATS, OpenedModel, open_model, write_model
from .known import libraries, not_whole
from .limits import Limits
from .pixels import ImageFunction
from .pooling import make_exportable
from .reference import classified, pasted, reference

__all__ = [
    'FORMATS',
    'Agreement',
    'Limits',
    'OpenedModel',
    'classified',
    'compare',
    'exportable',
    'open_model',
    'pasted',
    'reference',
    'relative_error',
    'wrap',
    'write_model',
]


def exportable(model: BaseModel, features: bool = False, label_map: bool = False) -> ImageFunction:
    """Return a fused copy of a model as a plain function of an image.

    Args:
        model: RetinaNet, Faster or Mask R-CNN of mmdet, a segmentor of mmseg or a classifier of
            mmpretrain.
        features: Only the backbone with its neck.
        label_map: A segmentor's labels instead of its logits.

    Returns:
        A module that maps an image (1, 3, H, W), BGR of 0 to 255, to a tuple of tensors, whose
        names are its ``output_names``. Where the net takes another number of channels, so does it.

    Raises:
        UserError: If the model cannot be fused, or is of a kind that is not known here.
    """
    model = copy.deepcopy(model).eval()
    function = wrap(model, features, label_map)
    fuse(model, neck_and_heads=True)  # what the function holds is part of it
    return make_exportable(function).eval().requires_grad_(False)


def wrap(model: BaseModel, features: bool, label_map: bool) -> ImageFunction:
    """Choose the function for a model."""
    from .features import Classifier, Features, Segmentor

    if features:
        return Features(model)
    # No library is imported that the model is not of: others need not be installed.
    known = libraries(model)
    if 'mmseg' in known and hasattr(model, 'decode_head'):
        return Segmentor(model, label_map)
    if 'mmpretrain' in known and hasattr(model, 'head'):
        return Classifier(model)
    if 'mmdet' in known:
        from mmdet.models.dense_heads import RetinaHead
        from mmdet.models.roi_heads import StandardRoIHead

        from .detectors import OneStage, TwoStage

        if isinstance(getattr(model, 'roi_head', None), StandardRoIHead):
            return TwoStage(model)
        if isinstance(getattr(model, 'bbox_head', None), RetinaHead):
            return OneStage(model)
    parts = [type(model).__name__]
    for name in ('roi_head', 'bbox_head', 'decode_head', 'head'):
        if hasattr(model, name):
            parts.append(f'{name} {type(getattr(model, name)).__name__}')
    raise not_whole(
        f'it is a {" with ".join(parts)}, expected RetinaNet, Faster R-CNN, Mask R-CNN, a '
        'segmentor or a classifier'
    )
