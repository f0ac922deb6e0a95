"""What a transport reports while it asks, for a progress line."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows how far the asking has come."""

    def update(self, done: int, total: int, slowest: str) -> None:
        """Take the number of workers done, of all, and the name of the one waited for the longest."""

    def close(self) -> None:
        """Take back what was shown."""
