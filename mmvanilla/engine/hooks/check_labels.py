"""A check of semantic labels in training and validation."""

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import UserError

IGNORED = 255


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Stop at a label map with a class that the data set does not have.

    Otherwise training ends deep inside the loss, and on a GPU without saying where; validation goes
    on and counts such pixels in part of its sums only.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare the classes of the data set with those of the model.

        Raises:
            UserError: If their numbers differ.
        """
        classes = len(runner.train_dataloader.dataset.metainfo['classes'])
        for name, module in runner.model.named_modules():
            found = getattr(module, 'num_classes', classes)
            if name.endswith(('decode_head', 'auxiliary_head')) and found != classes:
                raise UserError(
                    f'{name}.num_classes is {found}, but the data set has {classes} classes; '
                    f'set model.{name}.num_classes={classes}'
                )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.train_dataloader.dataset, data_batch)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Check the labels of a batch."""
        check_labels(runner.val_dataloader.dataset, data_batch)


def check_labels(dataset: BaseDataset, data_batch: dict) -> None:
    """Check the label maps (1, H, W) of a batch.

    Raises:
        UserError: If a label is out of range; the message names the file.
    """
    classes = len(dataset.metainfo['classes'])
    for sample in data_batch['data_samples']:
        labels = sample.gt_sem_seg.data
        wrong = labels[(labels >= classes) & (labels != IGNORED)]
        if len(wrong):
            shift = int(sample.reduce_zero_label)  # the file counts from 1, 0 is unlabelled
            raise UserError(
                f'{sample.seg_map_path!r} holds the label {int(wrong.max()) + shift}, but the '
                f'labels of the {classes} classes go from 0 to {classes - 1 + shift}; '
                'correct the file or the classes'
            )
