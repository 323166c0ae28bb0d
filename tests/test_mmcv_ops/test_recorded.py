"""Results and gradients must equal those recorded from compiled mmcv 2.1.0."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmvanilla.mmcv_ops import roi_align

DATA = Path(__file__).parents[1] / 'data'
CASES = torch.load(DATA / 'mmcv_ops.pt', weights_only=True)
replay = runpy.run_path(str(DATA / 'record_mmcv_ops.py'))['replay']


def cases(*ops):
    chosen = [case for case in CASES if case['op'] in ops]
    assert chosen
    return [
        pytest.param(
            case,
            id='-'.join([case['op'], *(str(a) for a in case['args'] if not isinstance(a, Tensor))]),
        )
        for case in chosen
    ]


def check(case, device):
    args = [arg.to(device) if isinstance(arg, Tensor) else arg for arg in case['args']]
    outputs, grads = replay(case['op'], args, case['grad_of'])
    for ours, theirs in zip(outputs + grads, case['outputs'] + case['grads'], strict=True):
        assert ours.device.type == device.type
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize('case', cases('nms', 'soft_nms', 'nms_match'))
def test_suppression(case, device):
    check(case, device)


@pytest.mark.parametrize('case', cases('deform_conv2d', 'modulated_deform_conv2d'))
def test_deform_conv(case, device):
    check(case, device)


@pytest.mark.parametrize('min_samples', [0, float('inf')], ids=['products', 'kernel'])
@pytest.mark.parametrize('case', cases('roi_align'))
def test_roi_align(case, min_samples, device, monkeypatch):
    monkeypatch.setattr(roi_align, '_MIN_SAMPLES', min_samples)
    check(case, device)
