"""A hook that writes down what its process sees of a distributed training."""

import json
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmvanilla.engine.hooks.switch_to_deploy import unwrap


@HOOKS.register_module()
class ReportRankHook(Hook):
    """Write ``rank0.json``, ``rank1.json``, ... to the work dir."""

    def __init__(self) -> None:
        self.seen = dict(act_learn=[], validated_deploy=[])

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Note the act_learn of an iteration."""
        self.seen['act_learn'].append(unwrap(runner.model).backbone.act_learn)

    def before_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Note the form that is validated."""
        self.seen['validated_deploy'].append(unwrap(runner.model).backbone.twin is not None)

    def after_train(self, runner: Runner) -> None:
        """Write."""
        Path(runner.work_dir, f'rank{get_rank()}.json').write_text(json.dumps(self.seen))
