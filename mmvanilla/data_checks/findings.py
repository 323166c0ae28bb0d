"""What checks of data find, counted."""

from collections import Counter, defaultdict
from typing import NamedTuple

from rich.table import Table

EXAMPLES = 3  # named of every kind


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        name: What is found, in a few words.
        training: What training does about it.
        error: Whether training stops at it or would learn something wrong; otherwise it is handled
            and only remarked.
    """

    name: str
    training: str
    error: bool = True


class Finding(NamedTuple):
    """A kind and where it was found."""

    kind: Kind
    where: str


def fault(name: str, where: str, training: str = 'stops') -> Finding:
    """Make a finding at which training stops, or from which it would learn something wrong."""
    return Finding(Kind(name, training), where)


def remark(name: str, where: str, training: str) -> Finding:
    """Make a finding that training handles, and say how."""
    return Finding(Kind(name, training, False), where)


class Report:
    """Findings by the part of the data (such as ``'train'``) and kind."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Kind]] = Counter()
        self.examples: dict[tuple[str, Kind], list[str]] = defaultdict(list)

    def add(self, part: str, finding: Finding) -> None:
        """Count a finding."""
        key = part, finding.kind
        self.counts[key] += 1
        if len(self.examples[key]) < EXAMPLES:
            # JSON and the names of files may hold halves of characters, which no terminal prints.
            self.examples[key].append(finding.where.encode('utf-8', 'backslashreplace').decode())

    def rows(self) -> list[dict]:
        """One dict of plain values for each part and kind, errors first."""
        return [
            dict(
                data=part,
                kind=kind.name,
                error=kind.error,
                training=kind.training,
                count=self.counts[part, kind],
                examples=self.examples[part, kind],
            )
            for part, kind in sorted(self.counts, key=lambda key: not key[1].error)
        ]

    @property
    def errors(self) -> int:
        """Number of errors found, without remarks."""
        return sum(count for (_, kind), count in self.counts.items() if kind.error)

    def table(self) -> Table:
        """The findings as a table."""
        table = Table('data', 'found', 'count', 'training', show_lines=True)
        table.add_column('examples', overflow='fold')
        for row in self.rows():
            style = 'red' if row['error'] else 'yellow'
            more = ['...'] if row['count'] > len(row['examples']) else []
            table.add_row(
                row['data'],
                f'[{style}]{"error" if row["error"] else "remark"}[/]: {row["kind"]}',
                str(row['count']),
                row['training'],
                '\n'.join(row['examples'] + more).replace('[', r'\['),
            )
        return table
