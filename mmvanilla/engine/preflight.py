"""Check a run that another program starts."""

from collections.abc import Iterable

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

from ..checks import noted_json
from ..type_name import scope
from .distributed import check_strategy
from .loaders import prepare_loader
from .run import build_errors, check_data, prepare


def preflight(
    cfg: Config, parts: Iterable[str] = ('train', 'val'), warn_only: bool = False
) -> None:
    """Check the data of a config before a runner is built.

    The library builds each data set. The loaded numbers are compared with the files and the
    evaluators, and a few samples go through the pipeline. ``tools/train.py`` does this, and more,
    with the data sets that it trains on.

    Args:
        cfg: The config of mmdet, mmseg or mmpretrain.
        parts: The data sets to check, of ``'train'``, ``'val'`` and ``'test'``.
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.

    Raises:
        UserError: If a data set cannot be built, most of it is left out, or a sample fails.
    """
    check_strategy(cfg)
    init_default_scope(scope(cfg))
    loaders = {}
    with noted_json():
        for part in parts:
            if loader := cfg.get(f'{part}_dataloader'):
                with build_errors(cfg, part):
                    loaders[part] = prepare_loader(Runner.build_dataloader(loader), None)
        check_data(loaders, cfg, warn_only=warn_only)


@HOOKS.register_module()
class PreflightHook(Hook):
    """Check a run once it is built, before it loads a checkpoint and makes its first step.

    Data sets are compared with their files, a few samples go through the pipeline, and heads must
    have the classes of the data. Errors of later samples name the file. In a runner of
    ``tools/train.py`` all this is done already.

    Args:
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.

    Raises:
        UserError: Before the run, at the first mistake.
    """

    priority = 'VERY_HIGH'

    def __init__(self, warn_only: bool = False) -> None:
        self.warn_only = warn_only

    def before_run(self, runner: Runner) -> None:
        """Check the data sets and prepare the loaders."""
        check_strategy(runner.cfg)
        prepare(runner, self.warn_only)
