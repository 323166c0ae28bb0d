"""Record what the operators of compiled mmcv 2.1.0 return, in ``mmcv_ops.pt``.

Needs the compiled mmcv in place of mmcv-lite, on the CPU:

    python tests/data/record_mmcv_ops.py
"""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def replay(
    op: str, args: list, grad_of: list[int], seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Call an operator of ``mmcv.ops`` and differentiate its first result.

    Args:
        op: Its name.
        args: Its positional arguments.
        grad_of: Positions of the arguments to differentiate by; none for no gradient.
        seed: Of the random weights that make the first result a scalar.

    Returns:
        The results and the gradients.
    """
    import mmcv.ops

    args = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    for position in grad_of:
        args[position].requires_grad_()
    result = getattr(mmcv.ops, op)(*args)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    if not grad_of:
        return outputs, []
    weights = torch.rand(outputs[0].shape, generator=torch.Generator().manual_seed(seed))
    loss = (outputs[0] * weights.to(outputs[0])).sum()
    grads = torch.autograd.grad(loss, [args[position] for position in grad_of])
    return [output.detach().clone() for output in outputs], list(grads)


def random_boxes(count: int, whole: bool) -> tuple[Tensor, Tensor]:
    """Return boxes (N, 4) and scores (N,); whole numbers make equal scores and overlaps."""
    corner, size = torch.rand(count, 2) * 100, torch.rand(count, 2) * 60
    scores = torch.rand(count)
    if whole:
        corner, size, scores = corner.round(), size.round() + 1, (scores * 10).round() / 10
    return torch.cat([corner, corner + size], dim=1), scores


def nms_cases() -> list[dict[str, Any]]:
    cases = []
    # PyTorch may order equal scores by processor, but not among so few as 16.
    for count, whole in ((1, False), (16, True), (60, False)):
        boxes, scores = random_boxes(count, whole)
        dets = torch.cat([boxes, scores[:, None]], dim=1)
        cases.append(dict(op='nms', args=[boxes, scores, 0.5, 0]))
        for method in ('naive', 'linear', 'gaussian'):
            args = [boxes, scores, 0.3, 0.5, 0.05, method, 0]
            cases.append(dict(op='soft_nms', args=args))
        cases.append(dict(op='nms', args=[boxes, scores, 1 / 3, 0, 0.25, 20]))
        cases.append(dict(op='nms_match', args=[dets, 0.5]))
    # Equal scores and many boxes dropped: the order depends on where the scan puts each box.
    boxes, scores = random_boxes(60, True)
    for method in ('naive', 'linear', 'gaussian'):
        cases.append(dict(op='soft_nms', args=[boxes, scores, 0.3, 0.5, 0.3, method, 0]))
    return cases


def roi_align_cases() -> list[dict[str, Any]]:
    features = torch.randn(2, 3, 13, 17)
    rois = torch.tensor(
        [
            [0, 4.3, 7.1, 30.2, 25.9],
            [1, 0.0, 0.0, 67.0, 51.0],  # the whole map
            [1, -30.0, -25.0, 20.0, 14.0],  # beyond the upper left
            [0, 50.0, 40.0, 95.0, 80.0],  # beyond the lower right
            [0, 200.0, 200.0, 230.0, 240.0],  # off the map
            [1, 21.0, 13.0, 23.5, 14.5],  # less than a cell
            [0, -4.0, 8.0, 24.0, 36.0],  # samples on whole cells
            [1, 20.0, 20.0, 20.0, 20.0],  # a point
        ]
    )
    cases = []
    for ratio, aligned in itertools.product((0, 2), (False, True)):
        args = [features, rois, (5, 4), 0.25, ratio, 'avg', aligned]
        cases.append(dict(op='roi_align', args=args, grad_of=[0]))
    return cases


def deform_conv_cases() -> list[dict[str, Any]]:
    cases = []
    # kernel, stride, padding, dilation, groups, deformable groups, size of the offsets
    for kernel, stride, padding, dilation, groups, deform_groups, spread in (
        (3, 1, 1, 1, 1, 1, 2.0),
        (3, 1, 1, 1, 1, 1, 0.0),  # as training starts
        (3, 2, (2, 1), (1, 2), 2, 1, 2.0),
        (1, 1, 0, 1, 1, 2, 2.0),
        (3, 1, 2, 2, 2, 2, 2.0),
    ):
        x, weight = torch.randn(2, 4, 5, 6), torch.randn(6, 4 // groups, kernel, kernel)
        size = torch.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
        taps = deform_groups * kernel * kernel
        offset = torch.randn(2, 2 * taps, *size) * spread
        mask, bias = torch.rand(2, taps, *size), torch.randn(6)
        geometry = [stride, padding, dilation, groups, deform_groups]
        args = [x, offset, weight, *geometry]
        cases.append(dict(op='deform_conv2d', args=args, grad_of=[0, 1, 2]))
        args = [x, offset, mask, weight, bias, *geometry]
        cases.append(dict(op='modulated_deform_conv2d', args=args, grad_of=[0, 1, 2, 3, 4]))
    args = [*args[:4], None, *geometry]
    cases.append(dict(op='modulated_deform_conv2d', args=args, grad_of=[0, 1, 2, 3]))
    return cases


def main() -> None:
    spec = importlib.util.find_spec('mmcv._ext')
    if spec is None or not (spec.origin or '').endswith(('.so', '.pyd')):
        raise SystemExit('mmcv here was not compiled; install mmcv==2.1.0 in place of mmcv-lite')
    torch.manual_seed(0)
    cases = nms_cases() + roi_align_cases() + deform_conv_cases()
    for case in cases:
        case.setdefault('grad_of', [])
        case['outputs'], case['grads'] = replay(**case)
    torch.save(cases, Path(__file__).with_name('mmcv_ops.pt'))


if __name__ == '__main__':
    main()
