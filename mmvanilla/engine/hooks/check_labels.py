"""A check of semantic labels in training and validation."""

import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...errors import UserError

IGNORED = 255  # by mmseg's heads, unless they are told another label
LABELS = 256


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Stop at a label map with a class that the data set does not have; name classes never seen.

    Otherwise training ends deep inside the loss, and on a GPU without saying where; validation goes
    on and counts such pixels in part of its sums only. A class without a pixel in as many images as
    the training set has, as where masks hold 0 and 255, is never learned: the log warns of it.
    """

    def __init__(self) -> None:
        self.pixels: Tensor | None = None  # of every label, until they are looked at
        self.images = 0
        self.ignored = {IGNORED}

    def before_train(self, runner: Runner) -> None:
        """Begin to count, and ask the heads which label they ignore."""
        self.pixels, self.images = torch.zeros(LABELS, dtype=torch.int64), 0
        asked = (getattr(module, 'ignore_index', None) for module in runner.model.modules())
        self.ignored = {label for label in asked if isinstance(label, int)} or {IGNORED}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch, and count their pixels."""
        dataset = runner.train_dataloader.dataset
        pixels = check_labels(dataset, data_batch, self.ignored)
        if self.pixels is None:
            return
        self.pixels += pixels
        self.images += len(data_batch['data_samples'])
        if self.images >= len(dataset):
            self._warn(runner, dataset.metainfo['classes'], self.pixels)
            self.pixels = None

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.val_dataloader.dataset, data_batch, self.ignored | {IGNORED})

    def _warn(self, runner: Runner, classes: list[str], pixels: Tensor) -> None:
        counts = zip(classes, pixels, strict=False)
        missing = [name for i, (name, n) in enumerate(counts) if not n and i not in self.ignored]
        if not missing:
            return
        text = f'No pixel of {", ".join(map(repr, missing))} was in the {self.images} images'
        if skipped := [label for label in sorted(self.ignored) if pixels[label]]:
            text += f', whose pixels of {skipped[0]} are ignored'
        runner.logger.warning(
            f'{text}; what has no pixel is not learned: correct the classes, the label maps or '
            'reduce_zero_label, tools/check_data.py looks at all label maps'
        )


def check_labels(dataset: BaseDataset, data_batch: dict, ignored: set[int]) -> Tensor:
    """Check the label maps (1, H, W) of a batch; ``ignored`` are labels beyond the classes.

    Returns:
        The number of pixels of every label, (256,).

    Raises:
        UserError: If a label is out of range; the message names the file.
    """
    classes = len(dataset.metainfo['classes'])
    total = torch.zeros(LABELS, dtype=torch.int64)
    for sample in data_batch['data_samples']:
        pixels = sample.gt_sem_seg.data.flatten().bincount(minlength=LABELS).cpu()
        found = pixels.nonzero().flatten().tolist()
        wrong = [label for label in found if label >= classes and label not in ignored]
        if wrong:
            shift = int(sample.reduce_zero_label)  # the file counts from 1, 0 is unlabelled
            raise UserError(
                f'{sample.seg_map_path!r} holds the label {max(wrong) + shift}, but the '
                f'labels of the {classes} classes go from 0 to {classes - 1 + shift}; '
                'correct the file or the classes'
            )
        total += pixels
    return total
