"""Sentences about a model or its data, and what becomes of them."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from mmengine.logging import print_log

from ..errors import UserError


class Finding(NamedTuple):
    """One sentence about something that looks wrong.

    Attributes:
        text: The sentence: what was found, what was expected, what to do.
        refuse: Whether the run would learn or report something wrong. Otherwise it is a warning.
    """

    text: str
    refuse: bool = False


def report(
    findings: Iterable[Finding], warn_only: bool = False, kind: type[UserError] = UserError
) -> None:
    """Log warnings, and raise the first finding that is refused.

    Args:
        findings: The findings; equal ones are logged once.
        warn_only: Log what would be refused as a warning, too.
        kind: The type of the error.

    Raises:
        UserError: If a finding is refused and ``warn_only`` is not set.
    """
    found = list(dict.fromkeys(findings))
    refused = [] if warn_only else [finding.text for finding in found if finding.refuse]
    for finding in found:
        if finding.text not in refused:
            print_log(finding.text, logger='current', level=logging.WARNING)
    if refused:
        more = f' (and {len(refused) - 1} more findings)' if len(refused) > 1 else ''
        raise kind(f'{refused[0]}{more}; --warn-only (warn_only=True) makes it a warning')
