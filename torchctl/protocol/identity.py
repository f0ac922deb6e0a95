"""A worker's identity in every form in which it is sent: reply headers, JSON, and a relay's line. No I/O.

A reader ignores fields that it does not know and treats missing ones as unknown, so older and newer versions of
torchctl understand each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# In every reply, so that an answer always says whose it is.
RANK_HEADER = "Torchctl-Rank"
PID_HEADER = "Torchctl-Pid"
WORLD_SIZE_HEADER = "Torchctl-World-Size"
JOB_HEADER = "Torchctl-Job"
STEP_HEADER = "Torchctl-Step"  # the last reported training step
# Only in a sentinel's replies: since when (seconds since the epoch), a space, and why the worker does not answer.
DEGRADED_HEADER = "Torchctl-Degraded"

MAX_JOB_CHARS = 200
_MAX_REASON_CHARS = 500
_NUMBER_DIGITS = 9  # of a rank, a pid, a step
_SECONDS_DIGITS = 11  # of a time since the epoch
_RANK, _PID, _WORLD_SIZE, _JOB, _STEP, _DEGRADED = (
    name.lower() for name in (RANK_HEADER, PID_HEADER, WORLD_SIZE_HEADER, JOB_HEADER, STEP_HEADER, DEGRADED_HEADER)
)


class Identity(NamedTuple):
    """Who a worker says it is; None for anything it does not say (torch's own server says nothing).

    Attributes:
        degraded: why the sentinel answered in the worker's place; None if the worker answered itself.
        since: when that was first seen, by the host's clock, in seconds since the epoch; whole seconds once parsed.
    """

    rank: int | None = None
    pid: int | None = None
    world_size: int | None = None
    job_id: str | None = None
    step: int | None = None
    degraded: str | None = None
    since: float | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Identity:
        """Return the identity in a reply's headers.

        Args:
            headers: by name, in lower case or in a mapping that ignores case.
        """
        since, _, degraded = headers.get(_DEGRADED, "").partition(" ")
        return cls(
            parse_number(headers.get(_RANK)),
            parse_number(headers.get(_PID)),
            parse_number(headers.get(_WORLD_SIZE)),
            headers.get(_JOB, "")[:MAX_JOB_CHARS] or None,
            parse_number(headers.get(_STEP)),
            degraded[:_MAX_REASON_CHARS] or None,
            parse_number(since.partition(".")[0], _SECONDS_DIGITS) if degraded else None,
        )

    def header_lines(self) -> list[str]:
        """Return the identity as header lines, without unknown fields and those that no header can carry."""
        lines = [
            f"{name}: {value}"
            for name, value in (
                (PID_HEADER, self.pid),
                (RANK_HEADER, self.rank),
                (WORLD_SIZE_HEADER, self.world_size),
                (JOB_HEADER, self.job_id if self.job_id and _fits_header(self.job_id) else None),
                (STEP_HEADER, self.step),
            )
            if value is not None
        ]
        if self.degraded is not None:
            reason = "".join(char if _fits_header(char) else "?" for char in self.degraded)
            lines.append(f"{DEGRADED_HEADER}: {self.since or 0:.3f} {reason}")
        return lines

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Identity:
        """Return the identity in a JSON object like that of `as_json`; a field of the wrong type or size is unknown."""
        job, degraded = document.get("job_id"), document.get("degraded")
        reason = degraded[:_MAX_REASON_CHARS] if isinstance(degraded, str) else ""
        return cls(
            checked_number(document.get("rank")),
            checked_number(document.get("pid")),
            checked_number(document.get("world_size")),
            (job[:MAX_JOB_CHARS] or None) if isinstance(job, str) else None,
            checked_number(document.get("step")),
            reason or None,
            _whole_seconds(document.get("since")) if reason else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return self._asdict()


NOBODY = Identity()


def parse_number(text: str | None, digits: int = _NUMBER_DIGITS) -> int | None:
    """Return a text as a whole number, or None if it is something else or has too many digits."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= digits else None


def checked_number(value: Any, digits: int = _NUMBER_DIGITS) -> int | None:
    """Return a JSON value if it is a number in the range of `parse_number`, else None."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 10**digits else None


def _whole_seconds(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if 0 <= value < 10**_SECONDS_DIGITS else None
    return checked_number(value, _SECONDS_DIGITS)


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable()
