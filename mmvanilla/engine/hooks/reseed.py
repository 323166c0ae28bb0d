"""Random numbers of the model that a resumed run draws as an uninterrupted one would."""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks.items import seed_all
from ..loaders import prepare_loop

ITERATION = 1  # keeps the draws of an iteration apart from those of a sample


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seed every sample and every iteration from the run's seed.

    A sample's draws follow from the seed, the epoch and its index; what the model draws (sampled
    proposals, dropout) follows from the seed, the iteration and the process. So nothing depends on
    the number of workers, or on where the run was resumed, and two seeds share no draws.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Seed the samples, unless the runner does."""
        prepare_loop(runner, runner.train_loop)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed before an iteration."""
        seed_all(runner.seed, ITERATION, runner.iter, get_rank())
