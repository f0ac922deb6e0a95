"""One kind of line that is understood: what it looks like, what it means, where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

# What a line is evidence of.
#   failed ... launcher: a failure, and of what kind
#   victim: the end of a rank that only follows the failure of another
#   hang: ranks wait; `diagnosis.findings.watchdog` says for whom
#   ended: a process ended, with an exit code or a signal
#   context: no evidence of a failure, but worth knowing
Role = Literal[
    "failed",
    "out_of_memory",
    "device_error",
    "killed",
    "node_lost",
    "launcher",
    "victim",
    "hang",
    "ended",
    "context",
]
CAUSES: tuple[Role, ...] = ("failed", "out_of_memory", "device_error", "killed", "node_lost", "launcher")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of line.

    Attributes:
        name: short and unique.
        words: each line that `regex` matches has one of these; four characters at least.
        regex: bounded, since a line is what anyone printed. Groups: `rank`, who says it; `about`, whom it names;
            `pid`, `task`, `host`, `code`, `signal` and others as their reader needs them.
        meaning: what it says, as a clause after "rank 3: ".
        example: a line that it matches.
        since: the first version of torch that prints it; "" if that does not matter.
        source: who prints it.
        fatal: the process that prints it ends; otherwise something else has to show that a process ended.
        weak: the failure of another rank causes it, too; it is a cause only if nothing better is known.
    """

    name: str
    role: Role
    words: tuple[str, ...]
    regex: str
    meaning: str
    example: str
    since: str
    source: str
    fatal: bool = False
    weak: bool = False
    compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", re.compile(self.regex))
