"""The table of a server's open connections: limited, and the idlest makes room."""

from __future__ import annotations

import threading
import time

from torchctl.server.http.channel import Channel


class Slot:
    """One connection: its bytes, its thread, and since when it has been waiting for its client.

    Attributes:
        waiting_since: `time.monotonic` seconds; None while a handler runs. A client that does not read its answer
            counts as idle, just like one that sends no request.
    """

    __slots__ = ("channel", "thread", "waiting_since")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.thread: threading.Thread | None = None
        self.waiting_since: float | None = time.monotonic()


class Connections:
    """All connections of one server, across its listeners.

    Args:
        limit: how many may be open; beyond that, the one that has waited longest is hung up.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slots: dict[Channel, Slot] = {}
        self._ending: list[threading.Thread] = []  # their connections are closed; they may not have returned yet
        self._room = threading.Condition(threading.Lock())

    def add(self, channel: Channel, *, patience_s: float = 0.25) -> Slot | None:
        """Add a new connection, hanging up the idlest if the table is full.

        Returns:
            Its slot, or None if all connections are being served and none ended within `patience_s`.
        """
        with self._room:
            if len(self._slots) >= self.limit:
                waiting = [slot for slot in self._slots.values() if slot.waiting_since is not None]
                if not waiting:
                    return None
                min(waiting, key=lambda slot: slot.waiting_since or 0.0).channel.hang_up()
                # Its thread ends at once on the end of file; waiting for it bounds the number of threads.
                if not self._room.wait_for(lambda: len(self._slots) < self.limit, patience_s):
                    return None
            slot = self._slots[channel] = Slot(channel)
            return slot

    @property
    def crowded(self) -> bool:
        """Whether so many are open that new clients may need the slots."""
        return len(self._slots) > self.limit // 4

    def remove(self, channel: Channel) -> None:
        """Forget a connection that is about to be closed."""
        with self._room:
            slot = self._slots.pop(channel, None)
            if slot is not None and slot.thread is not None:
                self._ending = [thread for thread in self._ending if thread.is_alive()]
                self._ending.append(slot.thread)
            self._room.notify_all()

    def slot_of(self, channel: Channel) -> Slot:
        """Return the slot of an open connection."""
        return self._slots[channel]

    def slots(self) -> list[Slot]:
        """Return the slots of the open connections."""
        return list(self._slots.values())

    def threads(self) -> list[threading.Thread]:
        """Return the threads of all connections, whether open or just closed."""
        with self._room:
            return [slot.thread for slot in self._slots.values() if slot.thread is not None] + self._ending
