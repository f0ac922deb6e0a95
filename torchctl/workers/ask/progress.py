"""The interface through which a transport reports progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows the progress of asking."""

    def update(self, done: int, total: int, slowest: str) -> None:
        """Show how many of the workers are done, and the name of the one waited for the longest."""

    def close(self) -> None:
        """Clear the progress line."""
