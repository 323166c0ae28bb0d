"""A label out of range is named with its file."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.structures import PixelData

from mmvanilla.engine import CheckLabelsHook
from mmvanilla.errors import UserError


def check(labels, reduce_zero_label=True):
    dataset = SimpleNamespace(metainfo=dict(classes=['a'] * 150))
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset))
    sample = SimpleNamespace(
        gt_sem_seg=PixelData(data=torch.tensor([[labels]])),
        seg_map_path='street.png',
        reduce_zero_label=reduce_zero_label,
    )
    CheckLabelsHook().before_train_iter(runner, 0, dict(data_samples=[sample]))


def test_every_good_label():
    check([*range(150), 255])
    check([*range(150), 255], reduce_zero_label=False)


def test_bad_labels():
    with pytest.raises(UserError, match="'street.png' holds the label 151, .* from 0 to 150;"):
        check([0, 150, 255])
    with pytest.raises(UserError, match='holds the label 200, .* from 0 to 149;'):
        check([0, 200], reduce_zero_label=False)


def train(maps, classes=('ground', 'road'), size=None, ignore_index=None):
    """Show label maps, and return what the log warns of."""
    warnings = []
    model = torch.nn.Module()
    if ignore_index is not None:
        model.decode_head = torch.nn.Module()
        model.decode_head.ignore_index = ignore_index
    loader = type('Loader', (), dict(__len__=lambda _: len(maps)))()
    loader.dataset = SimpleNamespace(metainfo=dict(classes=classes))
    runner = SimpleNamespace(
        train_dataloader=loader,
        logger=SimpleNamespace(warning=warnings.append),
        model=model,
    )
    hook = CheckLabelsHook()
    hook.before_train(runner)
    for labels in maps[:size]:
        sample = SimpleNamespace(
            gt_sem_seg=PixelData(data=torch.tensor([[labels]])),
            seg_map_path='street.png',
            reduce_zero_label=False,
        )
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    return warnings


def test_masks_of_0_and_255_are_warned_of_once():
    (warning,) = train([[0, 255]] * 5)
    assert "'road'" in warning
    assert '255' in warning
    assert "'ground'" not in warning


def test_a_class_that_is_rare_is_not_warned_of():
    assert train([[0, 255]] * 4 + [[0, 1]]) == []
    assert train([[0, 0]] * 5, size=4) == []  # the fifth is to come


def test_the_label_that_the_head_ignores_is_no_class():
    assert train([[0, 1, 254]] * 3, ignore_index=254) == []
    with pytest.raises(UserError, match='holds the label 255'):
        train([[0, 1, 255]], ignore_index=254)
    assert train([[1, 1]] * 3, ignore_index=0) == []  # whether it has pixels does not matter


def of_one_process(rank, store, cases, queue):
    dist.init_process_group('gloo', f'file://{store}', rank=rank, world_size=2)
    queue.put([train(maps[rank]) for maps in cases])
    dist.destroy_process_group()


def test_two_processes_count_the_pixels_of_both(tmp_path):
    """Each sees half of the images, and a class may be in the other half only."""
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    cases = [[[[0, 0]] * 2, [[1, 1]] * 2], [[[0, 0]] * 2, [[0, 255]] * 2]]
    workers = [
        context.Process(target=of_one_process, args=(rank, tmp_path / 'store', cases, queue))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    warnings = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    for complete, (incomplete,) in warnings:
        assert complete == []
        assert "'road' was in the 4 images" in incomplete
