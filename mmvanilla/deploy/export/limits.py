"""Which boxes a detector returns, read from its config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import UserError, require
from ...type_name import type_name

# Options of mmcv's ``nms`` and ``batched_nms``.
NMS_OPTIONS = {
    *('iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr'),
    *('max_num', 'score_threshold', 'offset'),
}


class Limits(NamedTuple):
    """Limits of a detector's boxes; the defaults are those of mmdet's configs.

    Attributes:
        score_thr: Boxes need a higher score.
        iou_threshold: A box with a higher IoU with a better box is suppressed.
        max_per_img: Largest number of boxes, best first.
        class_agnostic: Whether boxes suppress boxes of other classes.
        split_thr: Number of boxes from which ``class_agnostic`` is ignored.
        mask_thr: Smallest probability of a pixel in a mask.
    """

    score_thr: float = 0.05
    iou_threshold: float = 0.5
    max_per_img: int = 100
    class_agnostic: bool = False
    split_thr: int = 10000
    mask_thr: float = 0.5

    def describe(self) -> dict[str, Any]:
        """Return the limits of boxes, for the metadata of a file."""
        return dict(
            score_thr=self.score_thr,
            nms_iou_threshold=self.iou_threshold,
            nms_class_agnostic=self.class_agnostic,
            max_per_img=self.max_per_img,
        )


def read_limits(cfg: Mapping, name: str) -> Limits:
    """Read the limits from a head's ``test_cfg``, or raise a UserError with its ``name``."""
    nms = cfg['nms']
    if not isinstance(nms, Mapping) or type_name(nms) not in ('', 'nms'):
        kind = type_name(nms) if isinstance(nms, Mapping) else nms
        raise UserError(
            f"{name}.nms is {kind}, but only type='nms' can be exported; use it, or export the "
            "model's features"
        )
    unknown = sorted(set(nms) - NMS_OPTIONS - {'type'})
    if unknown:
        raise UserError(
            f"{name}.nms has {unknown[0]}, which mmcv's nms does not; expected "
            f'{", ".join(sorted(NMS_OPTIONS))}'
        )
    require(f'{name}.nms.offset', nms.get('offset', 0), not nms.get('offset'), '0 to be exported')
    overlap = nms.get('iou_threshold', nms.get('iou_thr'))
    require(f'{name}.nms.iou_threshold', overlap, isinstance(overlap, (int, float)), 'a number')
    require_positive(cfg, name, 'max_per_img')
    mask_thr = cfg.get('mask_thr_binary', 0.5)
    require(f'{name}.mask_thr_binary', mask_thr, mask_thr >= 0, 'at least 0 to be exported')
    most, number = cfg['max_per_img'], nms.get('max_num', -1)
    return Limits(
        score_thr=max(cfg.get('score_thr', 0), nms.get('score_threshold', 0)),
        iou_threshold=overlap,
        max_per_img=min(most, number) if number > 0 else most,
        class_agnostic=nms.get('class_agnostic', False),
        split_thr=nms.get('split_thr', 10000),
        mask_thr=mask_thr,
    )


def require_positive(cfg: Mapping, name: str, key: str) -> None:
    """Check that a head's ``test_cfg`` limits a number of boxes."""
    number = cfg.get(key)
    known = isinstance(number, int) and number > 0
    require(f'{name}.{key}', number, known, 'an integer of at least 1 to be exported')
