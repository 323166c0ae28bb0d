"""Loaded and lost images and objects of one data set."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .findings import Finding

EMPTY = 'without objects'


class Lost(NamedTuple):
    """Why images or objects were not loaded.

    Attributes:
        what: ``'images'``, ``'objects'`` or ``'label maps'``.
        reason: The reason, for messages.
        loss: False if the user or the format wants them left out.
    """

    what: str
    reason: str
    loss: bool


@dataclass
class Source:
    """Numbers of one data set without wrappers: loaded, and ``raw`` in its files.

    Raw numbers are None if the format is unknown. Objects that are marked to be ignored are not
    loaded. ``labels`` counts loaded objects, or images of a classifier, by label. ``lost`` counts
    images and objects that were not loaded; ``examples`` has one example for each key of ``lost``.
    """

    name: str
    images: int
    classes: tuple[str, ...] = ()
    raw_images: int | None = None
    objects: int = 0
    raw_objects: int | None = None
    labels: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def lose(self, what: str, reason: str, example: object, loss: bool, number: int = 1) -> None:
        """Count images or objects that were not loaded."""
        if number > 0:
            key = Lost(what, reason, loss)
            self.lost[key] += number
            self.examples.setdefault(key, str(example))

    def add(self, text: str, refuse: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(f'{self.name}: {text}', refuse))

    def find_renamed(self, labels: Mapping[str, int]) -> None:
        """Refuse labels that have other names in the files than in the config."""
        for name, label in labels.items():
            expected = self.classes[label] if label < len(self.classes) else None
            if name in self.classes and name != expected:
                missing = [other for other in self.classes if other not in labels]
                advice = 'give the classes in the order of the files, each once'
                if missing:
                    advice = f'the files have no {missing[0]!r}, remove it from the classes'
                text = f'label {label} is {name!r} in the files, but {expected!r} in the config'
                self.add(f'{text}; {advice}')
                return

    def mostly_lost(self) -> Iterator[Finding]:
        """Refuse a data set that lost most of its images or objects."""
        for what in ('images', 'objects'):
            loaded, raw = getattr(self, what), getattr(self, f'raw_{what}')
            lost = {key: n for key, n in self.lost.items() if key.what == what}
            losses = sum(n for key, n in lost.items() if key.loss)
            empty = self.lost[Lost(what, EMPTY, False)]
            if raw and (2 * losses > raw - empty or (what == 'objects' and not loaded)):
                main = max(lost, key=lambda key: (key.loss, lost[key]))
                text = f'{loaded:,} of {raw:,} {what} loaded; {lost[main]:,} are left out'
                example = self.examples[main]
                yield Finding(f'{self.name}: {text} {main.reason} ({example})', True)
