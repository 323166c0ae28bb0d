"""What checks of data find, counted."""

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


class Report:
    """Findings by the part of the data (such as ``'train'``) and kind."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Kind], int] = {}
        self.examples: dict[tuple[str, Kind], list[str]] = {}

    def add(self, part: str, finding: Finding) -> None:
        """Count a finding."""
        key = part, finding.kind
        self.counts[key] = self.counts.get(key, 0) + 1
        examples = self.examples.setdefault(key, [])
        if len(examples) < EXAMPLES:
            examples.append(finding.where)

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
