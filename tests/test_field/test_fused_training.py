"""Training from a fused net is refused."""

import pytest
import torch

from mmvanilla import fuse, make_shapes


@pytest.mark.parametrize('start', ['checkpoint', 'config'])
def test_the_sentence_does_not_lead_into_the_next_one(start, files, tool_error, tmp_path):
    """A checkpoint after fusion must not be answered with `deploy=True`, which is refused, too."""
    data = make_shapes(tmp_path / 'shapes', train=2, val=1, size=96) / 'coco'
    model, config, _ = files('retinanet', deploy=start == 'config')
    options = ['custom_hooks=[]']  # deep training, for one, is longer
    if start == 'checkpoint':
        torch.save(dict(state_dict=fuse(model).state_dict(), meta={}), tmp_path / 'fused.pth')
        options.append(f'load_from={tmp_path / "fused.pth"}')
    line = tool_error(
        *('train.py', config, '--data-root', data, '--work-dir', tmp_path / 'work'),
        *('--cfg-options', *options),
    )
    assert 'deploy=False' in line if start == 'config' else 'before fusion' in line
