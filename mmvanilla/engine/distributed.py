"""Training and testing in many processes: by mmengine on GPUs, with gloo on CPUs."""

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed

from ..errors import UserError


def init_processes(cfg: Config) -> None:
    """Connect the processes of a distributed run, and fit the config to CPUs where these compute.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: If the launcher cannot start processes on CPUs.
    """
    if cfg.get('launcher', 'none') == 'none':
        return
    if torch.cuda.is_available():
        if not is_distributed():
            init_dist(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs GPUs; on CPUs use tools/dist_train.sh or '
            'tools/dist_test.sh'
        )
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
    # The statistics of the first process, which it saves, are everyone's, also after a resume.
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=True,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
