"""What every way of asking has in common: a question goes in, and one outcome per worker comes out in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Question
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")


class Transport(Protocol):
    """Carries one question to workers. `fanout` picks it; no question knows which it is."""

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        """Ask every worker and return one outcome per endpoint, in their order; Ctrl-C ends the asking.

        A relay's endpoint is a host, and gives one outcome for each of its workers.

        Args:
            deadline: `time.monotonic` seconds; nothing is waited for longer.
        """

    def stop(self) -> None:
        """Let `ask`, on another thread, return what it has."""
