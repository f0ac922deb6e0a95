"""One sentinel for all servers of the process: which have a link to it, and which are waiting for it.

How this works: the first server starts a sentinel, and servers that start in the meantime wait for its link too. A
later server does not start another: the existing sentinel is given the name of its door, over any link. So the sentinel
stays until the last server has said goodbye, and no server depends on another: if the first one that waits gives up,
the next one starts a sentinel.
"""

from __future__ import annotations

import contextlib
import threading

from torchctl.server.guest import launch, step
from torchctl.server.guest.link import Link
from torchctl.server.sentinel.page import Page

_lock = threading.RLock()  # held for what follows; a signal handler may come in between, and shut down too
_linked: set[Place] = set()
_waiting: list[Place] = []  # for a sentinel that has been started for the first of them, and has not come yet


class Place:
    """One server's place at the sentinel.

    Args:
        address: of the server; None if its sockets are not shared.

    Attributes:
        link: to the sentinel; None before it is there and after it has gone.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.link: Link | None = None
        self._page: Page | None = None
        self._door = ""
        self._left = False

    def wait(self, door: str) -> None:
        """Get a sentinel.

        Args:
            door: name of the socket that it must connect to.

        Raises:
            OSError: it cannot be started.
        """
        self._door = door
        with _lock:
            if any(one.link is not None and one.link.invite(door) for one in _linked):
                return
            _waiting.append(self)
            if len(_waiting) > 1:
                return  # told as soon as the first one has its link
        launch.start(door)

    def enter(self, link: Link, page: Page) -> bool:
        """Take the new link; False if this place has been given up in the meantime.

        Args:
            page: for the steps that are reported from now on.
        """
        with _lock:
            if self._left:
                return False
            self.link, self._page = link, page
            _linked.add(self)
            step.pages = (*step.pages, page)
            if self in _waiting:
                _waiting.remove(self)
                for other in _waiting:
                    link.invite(other._door)
                _waiting.clear()
        return True

    def lose(self) -> None:
        """Note that the sentinel has gone."""
        with _lock:
            self._unlink()

    def leave(self) -> Link | None:
        """Give the place up, and return its link: from here on no other server is named over it."""
        with _lock:
            self._left = True
            link = self.link
            self._unlink()
            was_first = bool(_waiting) and _waiting[0] is self
            if self in _waiting:
                _waiting.remove(self)
            following = _waiting[0] if was_first and _waiting else None
        if following is not None:
            with contextlib.suppress(Exception):
                launch.start(following._door)
        return link

    def _unlink(self) -> None:
        step.pages = tuple(page for page in step.pages if page is not self._page)
        self.link = self._page = None
        _linked.discard(self)


def is_last() -> bool:
    """Whether the last server has given up its link."""
    return not _linked


def forget_all() -> None:
    """In a forked child: it has no sentinel, and no thread of ours that may hold the lock."""
    global _lock
    _lock = threading.RLock()
    _linked.clear()
    _waiting.clear()
    step.pages = ()


def sentinel_pid() -> int | None:
    """Return the pid of this process's sentinel, None while it has none."""
    return next((link.pid for one in list(_linked) if (link := one.link) is not None), None)


def sentinel_serves() -> list[str]:
    """Return the addresses at which the sentinel answers while this process cannot; none that speaks TLS."""
    return sorted(one.address for one in list(_linked) if one.address is not None)
