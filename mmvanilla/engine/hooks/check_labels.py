"""A check of semantic labels in training and validation."""

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...errors import UserError

IGNORED = 255  # by mmseg's heads, unless they are given another label
LABELS = 256


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Stop at a label that the data set does not have; warn of classes without a pixel.

    Otherwise training ends deep inside the loss, on a GPU without the file's name, and a validation
    counts such pixels in some of its sums only. A class without a pixel in an epoch's images, in
    all processes together, is never learned: label maps of 0 and 255, for example.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # pixels of each label, then images, until the warning
        self.ignored = {IGNORED}

    def before_train(self, runner: Runner) -> None:
        """Begin to count, and ask the heads which label they ignore."""
        self.counts = torch.zeros(LABELS + 1, dtype=torch.int64)
        asked = (getattr(module, 'ignore_index', None) for module in runner.model.modules())
        self.ignored = {label for label in asked if isinstance(label, int)} or {IGNORED}
        self.left = len(runner.train_dataloader)  # batches, as many in every process

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch, and count their pixels."""
        dataset = runner.train_dataloader.dataset
        pixels = check_labels(dataset, data_batch, self.ignored)
        if self.counts is None:
            return
        self.counts += torch.cat([pixels, torch.tensor([len(data_batch['data_samples'])])])
        self.left -= 1
        if self.left:
            return
        all_reduce(self.counts)
        counts, self.counts, classes = self.counts.tolist(), None, dataset.metainfo['classes']
        unseen = [i for i in range(len(classes)) if not counts[i] and i not in self.ignored]
        ignored = [label for label in sorted(self.ignored) if counts[label]]
        if unseen:
            rest = f', whose pixels of {ignored[0]} are ignored' if ignored else ''
            runner.logger.warning(
                f'No pixel of {", ".join(repr(classes[label]) for label in unseen)} was in the '
                f'{counts[LABELS]} images{rest}; such a class is not learned: correct the classes, '
                'the label maps or reduce_zero_label, tools/check_data.py looks at all label maps'
            )

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.val_dataloader.dataset, data_batch, self.ignored | {IGNORED})


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
