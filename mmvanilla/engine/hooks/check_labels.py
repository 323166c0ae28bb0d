"""A check of semantic labels in training and validation."""

import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...errors import UserError

IGNORED = 255


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

    def before_train(self, runner: Runner) -> None:
        """Begin to count."""
        self.pixels, self.images = torch.zeros(IGNORED + 1, dtype=torch.int64), 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch, and count their pixels."""
        dataset = runner.train_dataloader.dataset
        pixels = check_labels(dataset, data_batch)
        if self.pixels is None:
            return
        self.pixels += pixels
        self.images += len(data_batch['data_samples'])
        if self.images >= len(dataset):
            self._warn(runner, dataset.metainfo['classes'], self.pixels)
            self.pixels = None

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.val_dataloader.dataset, data_batch)

    def _warn(self, runner: Runner, classes: list[str], pixels: Tensor) -> None:
        missing = [name for name, count in zip(classes, pixels, strict=False) if not count]
        if not missing:
            return
        text = f'No pixel of {", ".join(map(repr, missing))} was in the {self.images} images'
        if pixels[IGNORED]:
            text += f', whose pixels of {IGNORED} are ignored'
        runner.logger.warning(
            f'{text}; what has no pixel is not learned: correct the classes, the label maps or '
            'reduce_zero_label, tools/check_data.py looks at all label maps'
        )


def check_labels(dataset: BaseDataset, data_batch: dict) -> Tensor:
    """Check the label maps (1, H, W) of a batch.

    Returns:
        The number of pixels of every label, (256,).

    Raises:
        UserError: If a label is out of range; the message names the file.
    """
    classes = len(dataset.metainfo['classes'])
    total = torch.zeros(IGNORED + 1, dtype=torch.int64)
    for sample in data_batch['data_samples']:
        pixels = sample.gt_sem_seg.data.flatten().bincount(minlength=IGNORED + 1).cpu()
        wrong = pixels.nonzero().flatten()
        wrong = wrong[(wrong >= classes) & (wrong != IGNORED)]
        if len(wrong):
            shift = int(sample.reduce_zero_label)  # the file counts from 1, 0 is unlabelled
            raise UserError(
                f'{sample.seg_map_path!r} holds the label {int(wrong.max()) + shift}, but the '
                f'labels of the {classes} classes go from 0 to {classes - 1 + shift}; '
                'correct the file or the classes'
            )
        total += pixels
    return total
