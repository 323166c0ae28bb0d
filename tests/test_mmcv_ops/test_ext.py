import sys
from importlib import util

import mmcv.ops
import pytest
import torch
from mmcv.utils import ext_loader
from mmengine.utils.dl_utils.misc import mmcv_full_available

from mmvanilla import mmcv_ops
from mmvanilla.mmcv_ops import ext


def test_mmcv_believes_its_operators_exist():
    assert ext_loader.check_ops_exist()
    assert mmcv_full_available()
    assert util.find_spec('mmcv._ext') is not None


@pytest.mark.skipif(sys.modules['mmcv._ext'] is not ext, reason='mmcv is compiled')
def test_installing_again_changes_nothing():
    before = sys.modules['mmcv._ext']
    mmcv_ops.install()
    assert sys.modules['mmcv._ext'] is mmcv._ext is before


BOXES, SCORES, MAP = torch.rand(3, 5), torch.rand(3), torch.rand(1, 2, 8, 8)


@pytest.mark.skipif(sys.modules['mmcv._ext'] is not ext, reason='mmcv is compiled')
@pytest.mark.parametrize(
    ('name', 'args'),
    [
        ('nms_rotated', (BOXES, SCORES, 0.5)),
        ('nms', (BOXES[:, :4], SCORES, 0.5, 1)),
        ('soft_nms', (BOXES[:, :4], SCORES, 0.3, 0.5, 1e-3, 'linear', 1)),
        ('roi_align', (MAP, BOXES, 7, 1.0, 0, 'max')),
        ('roi_pool', (MAP, BOXES, 7)),
        ('softmax_focal_loss', (MAP[0, 0], torch.arange(8), 2.0, 0.25)),
    ],
)
def test_another_operator_says_what_to_install(name, args):
    with pytest.raises(NotImplementedError, match=rf"'{name}.*mmcv==2\.1\.0"):
        getattr(mmcv.ops, name)(*args)


def test_private_names_are_missing():
    assert not hasattr(ext, '_anything')


def test_environment_report():
    assert isinstance(mmcv.ops.get_compiler_version(), str)
    assert isinstance(mmcv.ops.get_compiling_cuda_version(), str)


def test_a_compiled_module_is_left_alone(fresh_python, tmp_path):
    (tmp_path / '_ext.py').write_text('def __getattr__(name):\n    return "compiled"\n')
    code = (
        f'import mmcv; mmcv.__path__.insert(0, {str(tmp_path)!r})\n'
        'import mmvanilla, mmcv._ext\n'
        'print(mmcv._ext.__file__, mmcv._ext.nms)'
    )
    done = fresh_python('-c', code)
    assert done.stdout.splitlines()[-1:] == [f'{tmp_path / "_ext.py"} compiled'], done.stderr
