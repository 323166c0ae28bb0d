"""Export of whole models to formats that run without this package."""

import copy

from mmengine.model import BaseModel

from ...models import fuse
from .agreement import Agreement, compare, relative_error
from .formats import FORMATS, OpenedModel, open_model, write_model
from .known import not_whole
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
    """Return a fused copy of a model as a function of an image.

    Args:
        model: RetinaNet, Faster or Mask R-CNN of mmdet, a segmentor of mmseg or a classifier of
            mmpretrain.
        features: Export only the backbone with its neck.
        label_map: Return a segmentor's labels instead of its logits.

    Returns:
        A module that maps an image (1, C, H, W), BGR of 0 to 255 if C is 3, to a tuple of tensors
        with the names ``output_names``.

    Raises:
        UserError: If the model cannot be fused or its type is not supported.
    """
    model = copy.deepcopy(model).eval()
    function = wrap(model, features, label_map)
    fuse(model, neck_and_heads=True)  # in place, in the function as well
    return make_exportable(function).eval().requires_grad_(False)


def wrap(model: BaseModel, features: bool, label_map: bool) -> ImageFunction:
    """Choose the function for a model."""
    from .features import Classifier, Features, Segmentor

    if features:
        return Features(model)
    # Only the model's own library is imported; others may be missing.
    known = {kind.__module__.partition('.')[0] for kind in type(model).__mro__}
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
    names = [type(model).__name__]
    for name in ('roi_head', 'bbox_head', 'decode_head', 'head'):
        if hasattr(model, name):
            names.append(f'{name} {type(getattr(model, name)).__name__}')
    raise not_whole(
        f'it is a {" with ".join(names)}, expected RetinaNet, Faster R-CNN, Mask R-CNN, a '
        'segmentor or a classifier'
    )
