"""A metric that collects what a report shows."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from . import classification, detection, segmentation
from .evaluation import Evaluation


@METRICS.register_module()
class ReportMetric(BaseMetric):
    """Collects predictions and ground truth of a test for a report.

    Args:
        name: The checkpoint or exported file.
        dataset: The data set of the test.
        score_thr: Smallest score of a detection that is shown or counted as an error.
        ignore_index: Label of pixels that do not count.

    Attributes:
        evaluation: The figures after the test, in the main process; else None.
    """

    def __init__(
        self, name: str, dataset: Any, score_thr: float = 0.3, ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.name, self.score_thr, self.ignore_index = name, score_thr, ignore_index
        self.dataset = dataset
        self.infos: dict[Any, int] | None = None
        self.evaluation: Evaluation | None = None

    @property
    def finds_objects(self) -> bool:
        """Return whether the tested model is a detector."""
        return self.infos is not None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what the report needs of a batch."""
        for sample in data_samples:
            if 'pred_instances' in sample:
                self.results.append(detection.record(sample, self.info(sample)))
            elif 'pred_sem_seg' in sample:
                number = len(self.dataset_meta['classes'])
                self.results.append(segmentation.record(sample, number, self.ignore_index))
            else:
                self.results.append(classification.record(sample))

    def info(self, sample: dict) -> dict:
        """Return the annotations of a sample, in pixels of the original image."""
        if self.infos is None:
            ids = (self.dataset.get_data_info(i)['img_id'] for i in range(len(self.dataset)))
            self.infos = {img_id: i for i, img_id in enumerate(ids)}
        return self.dataset.get_data_info(self.infos[sample['img_id']])

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the figures; no metric is returned."""
        if not results:
            return {}
        meta = self.dataset_meta or {}
        self.evaluation = Evaluation(self.name, tuple(meta['classes']), meta.get('palette'))
        kinds = dict(boxes=detection, counts=segmentation, label=classification)
        kind = next(kind for key, kind in kinds.items() if key in results[0])
        kind.evaluate(results, self.evaluation, self.score_thr)
        return {}
