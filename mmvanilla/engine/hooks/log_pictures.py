"""Where to look at what a validation drew."""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LogPicturesHook(Hook):
    """Log the path of every picture that the visualisation hook writes during a validation.

    The hooks of mmdet and mmseg draw where ``default_hooks.visualization.draw`` is set, into a
    folder of each run, and do not say so.
    """

    def before_train(self, runner: Runner) -> None:
        """Take what is there already for known."""
        self._known = self._pictures(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Log what is new."""
        pictures = self._pictures(runner)
        for picture in sorted(pictures - self._known, key=lambda file: file.stat().st_mtime_ns):
            runner.logger.info(f'Ground truth (left) and prediction (right): {picture}')
        self._known = pictures

    @staticmethod
    def _pictures(runner: Runner) -> set[Path]:
        return set(Path(runner.log_dir).glob('vis_data/vis_image/*'))
