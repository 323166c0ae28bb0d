"""A check of label maps in training and validation."""

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

    Training would end deep inside the loss, and a validation would count such pixels in some of its
    sums only. The warning follows the first epoch: no process has seen a pixel of the class, as
    with label maps of 0 and 255.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(LABELS + 1, dtype=torch.int64)  # pixels of each label, images
        self.ignored = {IGNORED}
        self.left = 0  # batches until the warning, as many in every process

    def before_train(self, runner: Runner) -> None:
        """Find the labels that the heads ignore."""
        labels = (getattr(module, 'ignore_index', None) for module in runner.model.modules())
        self.ignored = {label for label in labels if isinstance(label, int)} or {IGNORED}
        self.left = len(runner.train_dataloader)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch, and count their pixels."""
        dataset = runner.train_dataloader.dataset
        self.counts[:LABELS] += check_labels(dataset, data_batch, self.ignored)
        self.counts[LABELS] += len(data_batch['data_samples'])
        self.left -= 1
        if self.left != 0:
            return
        all_reduce(self.counts)
        counts, classes = self.counts.tolist(), dataset.metainfo['classes']
        labels = [i for i in range(len(classes)) if not counts[i] and i not in self.ignored]
        if labels:
            ignored = ', '.join(f'{counts[i]} pixels of {i}' for i in self.ignored if counts[i])
            runner.logger.warning(
                f'No pixel of {", ".join(repr(classes[label]) for label in labels)} was in the '
                f'{counts[LABELS]} images (ignored: {ignored or "none"}), so these classes are not '
                'learned; correct the classes, the label maps or reduce_zero_label'
            )

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.val_dataloader.dataset, data_batch, self.ignored | {IGNORED})


def check_labels(dataset: BaseDataset, data_batch: dict, ignored: set[int]) -> Tensor:
    """Check the label maps (1, H, W) of a batch, and count the pixels of each label, (256,)."""
    classes = len(dataset.metainfo['classes'])
    total = torch.zeros(LABELS, dtype=torch.int64)
    for sample in data_batch['data_samples']:
        pixels = sample.gt_sem_seg.data.flatten().bincount(minlength=LABELS).cpu()
        found = set(pixels.nonzero().flatten().tolist())
        if wrong := found - ignored - set(range(classes)):
            shift = int(sample.reduce_zero_label)  # the file counts from 1, 0 is unlabelled
            raise UserError(
                f'{sample.seg_map_path!r} holds the label {max(wrong) + shift}, but the labels of '
                f'the {classes} classes go from 0 to {classes - 1 + shift}; correct the file or '
                'the classes'
            )
        total += pixels
    return total
