"""Results of OpenMMLab's libraries, with the names and shapes of exported outputs."""

from collections.abc import Mapping

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from .agreement import Outputs


@torch.no_grad()
def reference(
    model: BaseModel, image: Tensor, features: bool = False, label_map: bool = False
) -> Outputs:
    """Run a model in PyTorch, from its data preprocessor to its results.

    Args:
        model: The model, in eval mode.
        image: (N, C, H, W), BGR of 0 to 255, N = 1 for detectors.
        features: Return features, as ``exportable`` does.
        label_map: Return a segmentor's labels, as ``exportable`` does.

    Returns:
        The outputs by name, with masks (K, H, W) of the image's size. A segmentor computes whole
        images, even if its config has a sliding window.
    """
    shape = tuple(image.shape[-2:])
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    samples = [BaseDataElement(metainfo=meta) for _ in image]
    data = model.data_preprocessor(dict(inputs=list(image), data_samples=samples), False)
    if features:
        levels = model.extract_feat(data['inputs'])
        return {f'level{i}': level.numpy() for i, level in enumerate(levels)}
    if hasattr(model, 'head'):
        return dict(logits=model(data['inputs'], mode='tensor').numpy())
    if hasattr(model, 'decode_head'):
        metas = [sample.metainfo for sample in data['data_samples']]
        logits = model.whole_inference(data['inputs'], metas)[..., : shape[0], : shape[1]]
        return (
            dict(label_map=logits.argmax(1).numpy()) if label_map else dict(logits=logits.numpy())
        )
    (result,) = model.predict(data['inputs'], data['data_samples'])
    found = result.pred_instances
    outputs = dict(boxes=found.bboxes, scores=found.scores, labels=found.labels)
    if 'masks' in found:
        outputs['masks'] = found.masks
    return {name: value.numpy() for name, value in outputs.items()}


def pasted(outputs: Outputs, shape: tuple[int, int], threshold: float = 0.5) -> Outputs:
    """Paste the masks (K, 28, 28) of an exported detector into masks (K, H, W)."""
    if 'masks' not in outputs:
        return outputs
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    probabilities, boxes = (torch.from_numpy(outputs[name]) for name in ('masks', 'boxes'))
    masks = np.zeros((len(boxes), *shape), dtype=bool)
    for i in range(len(boxes)):  # one at a time, as in mmdet: only pixels near the box
        mask, place = _do_paste_mask(probabilities[i : i + 1, None], boxes[i : i + 1], *shape)
        masks[i][place] = (mask[0] >= threshold).numpy()
    return dict(outputs, masks=masks)


def classified(logits: np.ndarray, head: Mapping) -> tuple[Tensor, Tensor]:
    """Return scores (classes,) and labels from logits, as mmpretrain's heads do.

    Args:
        logits: Output (1, classes) of an exported classifier.
        head: The config of the model's head, with one or several labels per image.
    """
    from mmpretrain.models.heads import MultiLabelClsHead
    from mmpretrain.registry import MODELS

    head_type = head.get('type')
    head_type = MODELS.get(head_type) if isinstance(head_type, str) else head_type
    values = torch.from_numpy(logits)[0]
    if not (isinstance(head_type, type) and issubclass(head_type, MultiLabelClsHead)):
        scores = values.softmax(0)
        return scores, scores.argmax()
    scores = values.sigmoid()
    if head.get('thr') is None and head.get('topk'):
        return scores, scores.topk(head['topk'])[1]
    return scores, (scores >= (head.get('thr') or 0.5)).nonzero()[:, 0]
