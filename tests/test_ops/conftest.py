import importlib

import pytest
import torch

from mmvanilla.ops import ext

# With compiled mmcv, which lacks several operators on the CPU, there is nothing of ours to test
# but that it is left alone, and the operators that mmcv does not have.
if importlib.import_module('mmcv._ext') is not ext:
    collect_ignore_glob = ['test_[!es]*.py']


@pytest.fixture(
    params=[
        'cpu',
        pytest.param(
            'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
        ),
    ]
)
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: gradcheck makes thousands of calls too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
