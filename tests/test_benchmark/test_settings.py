"""Impossible settings are refused; the dtype is set."""

import pytest
import torch

from mmvanilla import UserError
from mmvanilla.backports import autocast_dtype
from mmvanilla.benchmark import settings as module
from mmvanilla.benchmark.settings import Settings, allow_tf32, precision


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(shape=(16, 64)), '--shape is 16 x 64, expected a height and width of at least 32'),
        (dict(batch_size=0), '--batch-size is 0, expected a number of at least 1'),
        (dict(repeat=0), '--repeat is 0, expected'),
        (dict(warmup=-1), '--warmup is -1, expected'),
        (dict(images='nowhere'), "--images is 'nowhere', expected a folder"),
        (dict(device='fridge'), "--device 'fridge' cannot be used"),
        (dict(dtype='tf32'), '--dtype tf32 needs an NVIDIA GPU'),
    ],
)
def test_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Settings(**options)


def test_fp16_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(module, 'has_instructions', lambda dtype: dtype == torch.bfloat16)
    with pytest.raises(UserError, match='no instructions for --dtype fp16; use --dtype bf16'):
        Settings(dtype='fp16')
    assert Settings(dtype='bf16').torch_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('shape', 'padded'),
    [((800, 1280), (800, 1280)), ((801, 1280), (832, 1280)), ((32, 33), (32, 64))],
)
def test_padding(shape, padded):
    settings = Settings(shape=shape)
    assert settings.padded == padded
    assert f'{padded[0]} x {padded[1]}' in settings.describe()


@pytest.fixture
def tf32():
    """Restore PyTorch's TF32 settings."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    yield backends
    allow_tf32(False)
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.parametrize('allowed', [False, True])
def test_fp32_is_fp32(allowed, tf32):
    for backend in tf32:
        backend.allow_tf32 = allowed
    with precision(Settings()):
        assert not any(backend.allow_tf32 for backend in tf32)
        assert autocast_dtype('cpu') is None


@pytest.mark.skipif(not hasattr(torch.backends, 'fp32_precision'), reason='needs torch 2.9')
def test_fp32_is_fp32_after_the_new_tf32_settings(tf32):
    matmul, cudnn = tf32
    matmul.fp32_precision, cudnn.conv.fp32_precision = 'tf32', 'ieee'
    with pytest.raises(RuntimeError, match='mix of the legacy and new'):
        _ = matmul.allow_tf32
    with precision(Settings()):
        assert matmul.fp32_precision == cudnn.conv.fp32_precision == 'ieee'
        assert not any(backend.allow_tf32 for backend in tf32)  # deploy reads them here
