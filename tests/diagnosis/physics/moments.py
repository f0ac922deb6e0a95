"""Moments of a simulated job: when something happens, which may be known late or never.

How this works. A moment is the latest of others plus a delay. It is known as soon as they all are, and tells those that
wait for it. What a fault holds up for good is never known, so a hang is what is left when nothing more comes to be
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Moment:
    """A time in nanoseconds; `at` is None while it is not known."""

    __slots__ = ("_latest", "_left", "_listeners", "at", "delay")

    def __init__(self, delay: int = 0, left: int = 0) -> None:
        self.at: int | None = None
        self.delay = delay
        self._left = left
        self._latest = 0
        self._listeners: list[Callable[[int], None]] = []

    def wait_for(self, others: Iterable[Moment]) -> Moment:
        """Make it come after `others`; to be called once on a moment made with `left=1`."""
        for other in others:
            if other.at is not None:
                self._latest = max(self._latest, other.at)
            else:
                self._left += 1
                other.then(self.come)
        self.come(0)
        return self

    def come(self, at: int) -> None:
        """Take one of the times that it waits for."""
        self._latest = max(self._latest, at)
        self._left -= 1
        if self._left == 0:
            self._settle(self._latest + self.delay)

    def then(self, listener: Callable[[int], None]) -> None:
        """Have `listener` called with the time: now, if it is known."""
        if self.at is not None:
            listener(self.at)
        else:
            self._listeners.append(listener)

    def _settle(self, at: int) -> None:
        self.at = at
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(at)

    def by(self, now: int) -> bool:
        """Whether it has come by `now`."""
        return self.at is not None and self.at <= now


def known(at: int) -> Moment:
    """Return a moment that is known."""
    made = Moment()
    made.at = at
    return made


def after(delay: int, *others: Moment) -> Moment:
    """Return the moment `delay` after the last of `others`."""
    latest = 0
    for other in others:
        if other.at is None:
            return Moment(delay, 1).wait_for(others)
        latest = max(latest, other.at)
    return known(latest + delay)


NEVER = Moment()
