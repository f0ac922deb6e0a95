"""A dump before it is decoded, and a dump that could not be obtained."""

from __future__ import annotations

from dataclasses import dataclass

from torchctl.errors import TorchctlError


@dataclass(frozen=True, slots=True)
class RawDump:
    """One dump before it is decoded.

    Args:
        source: the file or endpoint it came from.
        rank: the global rank, None if it is not known.
        data: the untrusted bytes.
        answered_ns: when a live worker sent it, wall-clock nanoseconds; None for a file.
        written_ns: when the file was last written; None for a live worker.
    """

    source: str
    rank: int | None
    data: bytes
    answered_ns: int | None = None
    written_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A dump that could not be obtained or read, and why."""

    source: str
    rank: int | None
    error: TorchctlError
