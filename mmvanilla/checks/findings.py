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
        certain: Whether the run would end in an error, so that no option lets it go on.
    """

    text: str
    refuse: bool = False
    certain: bool = False


def report(
    findings: Iterable[Finding], warn_only: bool = False, kind: type[UserError] = UserError
) -> None:
    """Log warnings, and raise the first finding that is refused.

    Args:
        findings: The findings; equal ones are logged once.
        warn_only: Log what would be refused as a warning, too, unless it is certain.
        kind: The type of the error.

    Raises:
        UserError: If a finding is certain, or is refused and ``warn_only`` is not set.
    """
    found = list(dict.fromkeys(findings))
    refused = [each for each in found if each.certain or (each.refuse and not warn_only)]
    for finding in found:
        if finding not in refused:
            print_log(finding.text, logger='current', level=logging.WARNING)
    if refused:
        text = max(refused, key=lambda each: each.certain).text
        text += f' (and {len(refused) - 1} more findings)' * (len(refused) > 1)
        option = '; --warn-only (warn_only=True) makes it a warning'
        raise kind(text + option * (not any(each.certain for each in refused)))
