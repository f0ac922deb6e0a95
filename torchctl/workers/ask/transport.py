"""The interface of all transports: a question goes in, and one outcome per worker comes out in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.question import Question
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")


class Transport(Protocol):
    """Sends one question to workers. `fanout` picks the transport; questions do not know which one."""

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        """Ask every worker and return one outcome per endpoint, in their order; Ctrl-C stops it.

        For relays an endpoint is a host, and yields one outcome per worker on it.

        Args:
            deadline: `time.monotonic` seconds; no wait lasts longer.
        """

    def stop(self) -> None:
        """Make `ask`, running on another thread, return what it has."""
