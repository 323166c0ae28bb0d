"""Draw predictions and annotations on pictures with supervision."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.structures import BaseDataElement

from ..errors import UserError

TOP = 5  # most likely classes of an image
OPACITY = 0.5  # of masks
MIN_TEXT_SCALE = 0.35  # in OpenCV's unit of about 22 pixels
FEW_LABELS = 10  # more labels get smaller letters
PANOPTIC_OFFSET = 1000  # mmdet adds multiples of it to the classes of objects
FARTHEST = 2**15 - 1  # coordinate that OpenCV draws
COARSE = 128  # longest side of the label maps that are searched for the middles of regions
# Where a label may touch its box: a point of the box and the point of the label that lies on it,
# (x, y) in fractions of their sides. The first is above the box, on its left.
AT_BOX = np.array(
    [
        [(0, 0), (0, 1)],
        [(0, 0), (0, 0)],
        [(0, 1), (0, 0)],
        [(1, 0), (1, 1)],
        [(0, 1), (0, 1)],
        [(1, 0), (0, 0)],
        [(0, 0), (1, 0)],
        [(1, 1), (1, 0)],
    ]
)
AT_MIDDLE = np.array([(0.5, 0.5), (0.5, 1.5), (0.5, -0.5)])  # points of a label, as above


class Annotator:
    """Draws predictions and annotations on pictures (H, W, 3), uint8, BGR.

    Objects get a mask with an outline, a box, and a label with class and score. Segmentations are
    tinted, and each class is named once. Classes of an image are listed in its upper left corner.
    Lines and letters grow with the picture. Labels do not cover each other: objects of high scores
    come first, and a label without a free place at its object is left out.

    Args:
        classes: The names of the classes; a class without a name is shown as its number.
        palette: The colors of the classes, RGB, by default those of supervision. Further classes
            start from the first color again.
        score_thr: Smallest score of a drawn object.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        score_thr: float = 0.3,
    ) -> None:
        import supervision as sv  # takes a second

        self.sv, self.classes, self.score_thr = sv, classes, score_thr
        self.palette = sv.ColorPalette.DEFAULT
        if palette is not None and np.ndim(palette) == 2:  # mmdet also takes names of palettes
            self.palette = sv.ColorPalette([sv.Color(*map(int, color)) for color in palette])

    def prediction(self, picture: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Return a copy of a picture with the prediction of its sample.

        Raises:
            UserError: If the sample has a prediction of another task, such as a depth map.
        """
        if 'pred_score' in sample:
            scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
            return self.draw_list(picture, labels.tolist(), scores.tolist())
        if 'pred_panoptic_seg' in sample:
            ids = sample.pred_panoptic_seg.sem_seg[0].numpy()
            return self.draw_regions(picture, ids % PANOPTIC_OFFSET)
        if 'pred_sem_seg' in sample:
            return self.draw_regions(picture, sample.pred_sem_seg.data[0].numpy())
        if 'pred_instances' not in sample:
            raise UserError(
                f'the model predicts {", ".join(sample.keys()) or "nothing"}, and supervision '
                'draws objects, label maps and classes; use --draw library'
            )
        scores, order = sample.pred_instances.scores.sort(descending=True, stable=True)
        shown = order[scores >= self.score_thr]
        return self.draw_objects(picture, sample.pred_instances[shown])

    def write_comparison(self, file: str, picture: np.ndarray, sample: BaseDataElement) -> None:
        """Write a picture with the ground truth, if there is one, left of the prediction."""
        truth = self.ground_truth(picture, sample)
        prediction = self.prediction(picture, sample)
        mmcv.imwrite(prediction if truth is None else np.hstack([truth, prediction]), file)

    def ground_truth(self, picture: np.ndarray, sample: BaseDataElement) -> np.ndarray | None:
        """Return a copy of a picture with the annotations of its sample; None without any."""
        if 'gt_label' in sample:
            return self.draw_list(picture, sample.gt_label.tolist())
        if 'gt_sem_seg' in sample:
            return self.draw_regions(picture, sample.gt_sem_seg.data[0].numpy())
        return self.draw_objects(picture, sample.gt_instances) if 'gt_instances' in sample else None

    def draw_objects(self, picture: np.ndarray, instances: Any) -> np.ndarray:
        """Return a copy of a picture with objects.

        Args:
            picture: The picture.
            instances: N objects, the most important one first, with ``labels``; ``bboxes`` (N, 4),
                corners in pixels, or rotated (N, 5), center, width, height and angle in radians;
                and if there are any, ``masks`` (N, H, W) and ``scores``.
        """
        sv, picture = self.sv, picture.copy()
        height, width = picture.shape[:2]
        labels = np.asarray(instances.labels)
        boxes, rotated = as_boxes(instances.bboxes)
        masks = None
        if len(labels) and 'masks' in instances:
            dense = as_array(instances.masks)
            extents = np.array([extent(mask) for mask in dense])
            # Models that predict no boxes return zeros.
            boxes = np.where((boxes[:, 2:] > boxes[:, :2]).all(1, keepdims=True), boxes, extents)
            self.tint(picture, *flatten(dense, extents, labels))
            masks = sv.CompactMask.from_dense(dense, extents, (height, width))
        boxes = np.rint(boxes).clip(0, [width - 1, height - 1, width - 1, height - 1])
        objects = sv.Detections(boxes, masks, class_id=labels, data=rotated)
        thickness = max(1, round(min(height, width) / 250))
        outline, box = sv.PolygonAnnotator, sv.OrientedBoxAnnotator if rotated else sv.BoxAnnotator
        picture = outline(self.palette, max(1, thickness // 2)).annotate(picture, objects)
        picture = box(self.palette, thickness).annotate(picture, objects)
        corners = boxes.reshape(-1, 1, 2, 2)
        anchors = np.where(AT_BOX[:, 0], corners[:, :, 1], corners[:, :, 0])
        texts = self.texts(labels.tolist(), instances.get('scores'))
        return self.write(picture, texts, labels.tolist(), anchors, AT_BOX[:, 1])

    def draw_regions(self, picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return a copy of a picture with a label map (H, W), except labels that are no class."""
        picture = picture.copy()
        self.tint(picture, labels, labels < len(self.classes))
        step = max(1, max(labels.shape) // COARSE)
        coarse = labels[::step, ::step]
        present, counts = np.unique(coarse, return_counts=True)
        known = [label for label in present[np.argsort(-counts)] if label < len(self.classes)]
        middles = np.array([middle(coarse == label) for label in known]).reshape(-1, 1, 2) * step
        return self.write(picture, self.texts(known), known, middles, AT_MIDDLE)

    def draw_list(
        self, picture: np.ndarray, labels: Sequence[int], scores: Sequence[float] | None = None
    ) -> np.ndarray:
        """Return a copy of a picture with a list of classes."""
        lines = np.arange(len(labels))
        pivots = np.stack([0 * lines, -lines], axis=1)[:, None]
        corner = np.zeros((len(labels), 1, 2))
        return self.write(picture.copy(), self.texts(labels, scores), labels, corner, pivots)

    def texts(self, labels: Sequence[int], scores: Any = None) -> list[str]:
        """Return the texts of labels: the class, and the score of a prediction."""
        names = [self.classes[i] if i < len(self.classes) else str(i) for i in labels]
        if scores is None:
            return names
        return [f'{name} {score:.2f}' for name, score in zip(names, scores, strict=True)]

    def tint(self, picture: np.ndarray, labels: np.ndarray, drawn: np.ndarray) -> None:
        """Blend a picture with the colors of a label map (H, W), in place where ``drawn``."""
        colors = np.array([color.as_bgr() for color in self.palette.colors], np.uint8)
        colors = np.take(colors, labels, axis=0, mode='wrap')
        tinted = cv2.addWeighted(picture, 1 - OPACITY, colors, OPACITY, 0)
        cv2.copyTo(tinted, drawn.view(np.uint8), picture)

    def write(
        self,
        picture: np.ndarray,
        texts: Sequence[str],
        labels: Sequence[int],
        anchors: np.ndarray,
        pivots: np.ndarray,
    ) -> np.ndarray:
        """Write each label at its first free place, in place; return the picture.

        Args:
            picture: The picture.
            texts: The texts of N labels, the most important one first.
            labels: The classes, for the colors.
            anchors: Points of the picture (N, K, 2), (x, y) in pixels, the best one first.
            pivots: The points of the labels that lie on the anchors, (K, 2) or (N, K, 2), (x, y) in
                fractions of their sides.
        """
        sv, font = self.sv, cv2.FONT_HERSHEY_SIMPLEX
        scale = text_scale(picture, len(texts))
        thickness, padding = max(1, round(1.5 * scale)), max(2, round(6 * scale))
        sizes = [cv2.getTextSize(text, font, scale, thickness)[0] for text in texts]
        letters = np.array(sizes, int).reshape(-1, 1, 2)
        outer = letters + 2 * padding + 1
        largest = np.maximum(picture.shape[1::-1] - outer, 0)
        starts = np.rint(anchors - pivots * outer).astype(int).clip(0, largest)
        for i, start in first_free(starts, outer):
            color = self.palette.by_idx(int(labels[i]))
            sv.draw_text(
                picture,
                texts[i],
                sv.Point(*start + padding + letters[i, 0] // 2),
                text_color=sv.Color.BLACK if is_light(color.as_rgb()) else sv.Color.WHITE,
                text_scale=scale,
                text_thickness=thickness,
                text_padding=padding,
                text_font=font,
                background_color=color,
            )
        return picture


def text_scale(picture: np.ndarray, count: int) -> float:
    """Return the size of letters that supervision recommends, smaller for many labels."""
    recommended = min(picture.shape[:2]) / 1000
    crowded = (FEW_LABELS / max(count, FEW_LABELS)) ** 0.25
    return max(MIN_TEXT_SCALE, recommended * crowded)


def is_light(color: tuple[int, int, int]) -> bool:
    """Return whether black letters are easier to read on an RGB color than white ones."""
    return bool(np.dot(color, (0.299, 0.587, 0.114)) > 128)


def first_free(starts: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and upper left corner of each label with a place that no earlier label covers.

    Args:
        starts: The upper left corners (N, K, 2) of the places of N labels, the best one first.
        sizes: The widths and heights (N, 1, 2) of the labels.
    """
    taken = np.empty((0, 2, 2), int)
    for i, (places, size) in enumerate(zip(starts, sizes, strict=True)):
        places = places[:, None]
        apart = (places + size <= taken[:, 0]) | (places >= taken[:, 1])
        free = apart.any(2).all(1)
        if free.any():
            start = starts[i, free.argmax()]
            taken = np.concatenate([taken, [[start, start + size[0]]]])
            yield i, start


def as_array(masks: Any) -> np.ndarray:
    """Return masks (N, H, W), bool, of a tensor, an array or mmdet's structures."""
    masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)
    return masks.astype(bool, copy=False)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last column and row (x1, y1, x2, y2) of a mask (H, W), bool."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, x + width - 1, y + height - 1


def flatten(
    masks: np.ndarray, extents: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a label map (H, W) of masks, small ones on top, and the union of the masks."""
    label_map = np.zeros(masks.shape[1:], labels.dtype)
    union = np.zeros(masks.shape[1:], bool)
    crops = [(slice(y1, y2 + 1), slice(x1, x2 + 1)) for x1, y1, x2, y2 in extents]
    cropped = [mask[crop] for mask, crop in zip(masks, crops, strict=True)]
    for i in np.argsort([-np.count_nonzero(mask) for mask in cropped]):
        np.copyto(label_map[crops[i]], labels[i], where=cropped[i])
        union[crops[i]] |= cropped[i]
    return label_map, union


def as_boxes(bboxes: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return finite boxes (N, 4), and the corners of rotated ones as supervision takes them."""
    boxes = np.nan_to_num(getattr(bboxes, 'tensor', bboxes)).clip(-FARTHEST, FARTHEST)
    if boxes.shape[1] == 4:
        return boxes, {}
    turned = [((x, y), (w, h), np.degrees(angle)) for x, y, w, h, angle in boxes.tolist()]
    corners = np.array([cv2.boxPoints(box) for box in turned]).reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1), {'xyxyxyxy': corners}


def middle(region: np.ndarray) -> tuple[int, int]:
    """Return the point (x, y) of a region (H, W), bool, that is farthest from its border."""
    padded = np.pad(region, 1).view(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = divmod(int(distance.argmax()), distance.shape[1])
    return x, y
