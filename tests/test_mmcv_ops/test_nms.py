import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import batched_nms, nms, nms_match, soft_nms


def suppress_one_by_one(boxes, scores, threshold):
    """Greedy suppression by its definition, in float32."""
    # PyTorch's sort, which mmcv uses, also decides the order of equal scores.
    order = scores.sort(descending=True).indices.tolist()
    boxes = boxes.numpy()
    kept = []
    for i in order:
        for j in kept:
            x1, y1 = np.maximum(boxes[i, :2], boxes[j, :2])
            x2, y2 = np.minimum(boxes[i, 2:], boxes[j, 2:])
            inner = max(np.float32(0), x2 - x1) * max(np.float32(0), y2 - y1)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[j], boxes[i])]
            if inner / (areas[0] + areas[1] - inner) > np.float32(threshold):
                break
        else:
            kept.append(i)
    return kept


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    threshold=st.sampled_from([0.3, 0.5, 1 / 3]),
    whole=st.booleans(),
)
def test_nms_equals_its_definition(seed, count, threshold, whole):
    torch.manual_seed(seed)
    corner, size = torch.rand(count, 2) * 20, torch.rand(count, 2) * 20 + 1
    scores = torch.rand(count)
    if whole:
        corner, size, scores = corner.round(), size.round(), (scores * 5).round() / 5
    boxes = torch.cat([corner, corner + size], dim=1)
    kept = nms(boxes, scores, threshold)[1].tolist()
    assert kept == suppress_one_by_one(boxes, scores, threshold)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(dtype, device):
    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
    scores = torch.tensor([0.5, 0.75, 0.25], device=device)
    dets, kept = nms(boxes.to(dtype), scores.to(dtype), 0.5)
    assert kept.tolist() == [1, 2]
    assert kept.device.type == device.type
    assert dets.dtype == dtype
    dets, kept = soft_nms(boxes.to(dtype), scores.to(dtype), 0.5, method='naive')
    assert kept.tolist() == [1, 2]
    assert dets.dtype == dtype


def test_an_overlap_of_exactly_the_threshold(device):
    """It keeps a box in nms, not in soft_nms and nms_match."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert soft_nms(boxes, scores, 0.5, method='naive')[1].tolist() == [0]
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    assert [group.tolist() for group in nms_match(dets, 0.5)] == [[0, 1]]


def test_no_boxes(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    for dets, kept in (nms(boxes, scores, 0.5), soft_nms(boxes, scores, 0.5)):
        assert dets.shape == (0, 5)
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64
    assert nms_match(torch.zeros(0, 5, device=device), 0.5) == []


def test_boxes_that_are_a_view(device):
    torch.manual_seed(0)
    corner = torch.rand(50, 2, device=device) * 30
    boxes, scores = torch.cat([corner, corner + 20], dim=1), torch.rand(50, device=device)
    wide = torch.cat([boxes, boxes], dim=1)[:, ::1][:, :4]
    assert torch.equal(nms(wide, scores, 0.4)[1], nms(boxes, scores, 0.4)[1])
    assert torch.equal(soft_nms(wide, scores)[0], soft_nms(boxes, scores)[0])


def test_classes_are_suppressed_apart(device):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 1, 10, 10]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    labels = torch.tensor([0, 1, 1], device=device)
    kept = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))[1]
    assert kept.tolist() == [0, 1]
