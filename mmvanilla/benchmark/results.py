"""Records of a measurement: a row for each model, and the run with all rows."""

from dataclasses import dataclass, field
from typing import Any

from .counting import Counts
from .settings import Settings
from .timing import Times


@dataclass
class Row:
    """Measurements of one model; None or empty where there are none.

    Attributes:
        name: Name of the model.
        form: Its form in words.
        times: Latencies of a call in ms.
        counts: Parameters and multiply-adds of a call.
        memory: Peak memory in bytes, see ``peak_memory``.
        detections: Boxes that a call returns, for detectors measured as a whole.
        reason: Why there are no times.
        missing: The reason is a missing package or hardware feature, not a fault.
        metadata: Further facts from the process that built the model.
    """

    name: str
    form: str = ''
    times: Times = field(default_factory=Times)
    counts: Counts | None = None
    memory: int | None = None
    detections: int | None = None
    reason: str | None = None
    missing: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measurement:
    """All rows of a run and the circumstances.

    Attributes:
        rows: One for each model.
        settings: How the models were measured.
        machine: Hardware and versions by name.
        date: Day of the run.
        trained: Some model had weights from a file.
        complete: All rounds were run.
        notes: Facts needed to read the figures.
        warnings: Reasons to doubt the figures.
    """

    rows: list[Row]
    settings: Settings
    machine: dict[str, str]
    date: str
    trained: bool = False
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fps(self, row: Row) -> float:
        """Return images a second by the median latency."""
        return 1e3 * self.settings.batch_size / row.times.median
