"""Training and testing in many processes: by mmengine on GPUs, with gloo on CPUs."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, init_dist, is_distributed

from ..errors import UserError
from ..type_name import type_name

Result = TypeVar('Result')


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
            init_dist(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}), **restarted())
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs GPUs; on CPUs use tools/dist_train.sh or '
            'tools/dist_test.sh'
        )
    if not is_distributed():
        torch.distributed.init_process_group('gloo', **restarted())
    # The statistics of the first process, which it saves, are everyone's, also after a resume.
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=True,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def restarted() -> dict[str, Any]:
    """Return where processes meet that torchrun has started again, {} at their first start.

    Its store still has the addresses of those that died.
    """
    count = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if count == '0':
        return {}
    store, rank, world_size = next(torch.distributed.rendezvous('env://'))
    store = torch.distributed.PrefixStore(f'restart {count}', store)
    return dict(store=store, rank=rank, world_size=world_size)


def check_strategy(cfg: Config) -> None:
    """Check that a config shards no model.

    Raises:
        UserError: If it does.
    """
    types = [type_name(cfg.get(key)) for key in ('strategy', 'model_wrapper_cfg')]
    if any('FSDP' in name or 'FullySharded' in name for name in types):
        raise UserError(
            'the config shards the model (FSDP), which is not supported: deep training, fusion and '
            'checkpoints need all weights in every process; remove strategy, runner_type and '
            'model_wrapper_cfg'
        )


def together(step: Callable[[], Result]) -> Result:
    """Take a step in every process; if it fails in one, all end, and one error is shown.

    Raises:
        Exception: The error of the step, in the failed process of lowest rank.
        SystemExit: In all other processes.
    """
    fault: Exception | None = None
    try:
        result = step()
    except Exception as error:  # raised below, as it is
        fault = error
    failed = all_gather_object(fault is not None)
    if not any(failed):
        return result
    if fault is not None and failed.index(True) == get_rank():
        raise fault
    raise SystemExit(2)
