"""Rate-limit refusals: a client that sends garbage must not take the interpreter away from the training.

How this works: a burst of requests is refused at once; beyond that each refusal waits for its turn, so that the whole
process sends only so many refusals a second. Proper requests never wait. If many connections are open, no refusal
waits: freeing the connections then matters more than the rate.
"""

from __future__ import annotations

import threading
import time

BURST = 50
PER_SECOND = 200.0  # about 0.2 ms of interpreter time each
MAX_WAIT_S = 1.0


class Pace:
    """Decides when the next refusal gets its turn."""

    def __init__(self) -> None:
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    def turn(self, now: float | None = None) -> float:
        """Take a turn.

        Args:
            now: `time.monotonic` seconds.

        Returns:
            The seconds to wait for it, at most MAX_WAIT_S.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            turn_at = max(self._free_at, now - BURST / PER_SECOND)
            wait_s = turn_at + 1 / PER_SECOND - now
            if wait_s <= MAX_WAIT_S:
                self._free_at = turn_at + 1 / PER_SECOND
            return min(max(0.0, wait_s), MAX_WAIT_S)


# For the whole process: its listeners share one interpreter.
refusals = Pace()
