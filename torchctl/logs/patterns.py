"""Everything that is understood in logs, in one table; the guide shows it, and a test tries each example."""

from __future__ import annotations

import re

from torchctl.logs import devices, elastic, hosts, nccl, python, torch
from torchctl.logs.pattern import Pattern

# In the order in which they are tried: the first that matches a line is its meaning.
TABLE: tuple[Pattern, ...] = (
    *python.PATTERNS[:3],
    *nccl.PATTERNS,
    *torch.PATTERNS,
    *devices.PATTERNS,
    *elastic.PATTERNS,
    *hosts.PATTERNS,
    *python.PATTERNS[3:],
)
BY_NAME = {pattern.name: pattern for pattern in TABLE}
WORDS = tuple(sorted({word for pattern in TABLE for word in pattern.words}))
_BY_WORD = {word: [at for at, pattern in enumerate(TABLE) if word in pattern.words] for word in WORDS}


def meaning_of(line: str) -> tuple[Pattern, re.Match[str]] | None:
    """Return the first pattern that a line matches; None if there is none.

    Args:
        line: cut at a length that the caller bounds.
    """
    tried = {at for word in WORDS if word in line for at in _BY_WORD[word]}
    for at in sorted(tried):
        if match := TABLE[at].compiled.search(line):
            return TABLE[at], match
    return None
