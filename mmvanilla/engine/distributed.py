"""Training and testing in many processes, on GPUs as mmengine does it, on CPUs as it does not."""

import torch
from mmengine.config import Config

from ..errors import UserError


def init_processes(cfg: Config) -> None:
    """Let the processes of a distributed run on CPUs meet, and fit the config to it.

    mmengine would ask for a GPU. On GPUs it does everything itself.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: If the launcher cannot start processes on CPUs.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs GPUs; on CPUs use tools/dist_train.sh or '
            'tools/dist_test.sh'
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    # The statistics of the first process, which it saves, are everyone's, also after a resume.
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=True,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
