"""Wrong tokens: counted, and their senders slowed down.

How this works: after a wrong token the next one from the same address is looked at later, twice as late each time.
Those who come meanwhile queue up for their moment, so that many connections at once try no more tokens than one; who
would wait too long is turned away unseen. Other addresses notice nothing, and a minute without a wrong token forgives.
A request without any token tries none, and is not counted.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_FIRST_DELAY_S = 0.1
MAX_DELAY_S = 2.0  # of one token, and the longest that anybody is kept waiting
_FORGIVEN_AFTER_S = 60.0
_MAX_ADDRESSES = 1024  # remembered; an attacker with more of them guesses no faster than one connection each


class _Sender:
    __slots__ = ("delay_s", "free_at", "last")

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.free_at = 0.0
        self.last = 0.0


class Guesses:
    """The wrong tokens that this process has seen.

    Attributes:
        total: how many.
    """

    def __init__(self) -> None:
        self.total = 0
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._lock = threading.Lock()

    def turn(self, address: str, now: float | None = None) -> float | None:
        """Take a turn for a token from `address`.

        Args:
            now: `time.monotonic` seconds.

        Returns:
            The seconds to wait before the token is looked at; None when that would be too long.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            sender = self._senders.get(address)
            if sender is None:
                return 0.0
            if now - sender.last > _FORGIVEN_AFTER_S:
                del self._senders[address]
                return 0.0
            wait_s = max(0.0, sender.free_at - now)
            if wait_s > MAX_DELAY_S:
                return None
            sender.free_at = now + wait_s + sender.delay_s
            return wait_s

    def wrong(self, address: str, now: float | None = None) -> None:
        """Note a wrong token."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self.total += 1
            sender = self._senders.setdefault(address, _Sender())
            sender.delay_s = min(MAX_DELAY_S, sender.delay_s * 2 or _FIRST_DELAY_S)
            sender.last = now
            sender.free_at = max(sender.free_at, now + sender.delay_s)
            self._senders.move_to_end(address)
            if len(self._senders) > _MAX_ADDRESSES:
                self._senders.popitem(last=False)


# Of the whole process: its listeners on IPv4 and IPv6 guard the same token.
seen = Guesses()
