"""One sentinel for all servers of the process: which servers have a link to it, and which are waiting for one.

How this works: the first server starts a sentinel, and servers that start before it has connected wait too. A later
server does not start another: it sends the existing sentinel the name of its door, over any link. So the sentinel stays
until the last server has said goodbye, and no server depends on another: if the first one in line gives up, the next
one starts a sentinel.
"""

from __future__ import annotations

import contextlib
import threading

from torchctl.server.guest import launch, step
from torchctl.server.guest.link import Link
from torchctl.server.sentinel.page import Page

_lock = threading.RLock()  # guards the names below; reentrant, since a signal handler may shut down a server
_linked: set[Place] = set()
_waiting: list[Place] = []  # for the sentinel that the first one started and that has not connected yet


class Place:
    """One server's place at the sentinel.

    Args:
        address: the server's; None if its sockets are not shared.

    Attributes:
        link: to the sentinel; None before it connects and after it is gone.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.link: Link | None = None
        self._page: Page | None = None
        self._door = ""
        self._left = False

    def wait(self, door: str) -> None:
        """Invite the existing sentinel, wait for the one being started, or start one.

        Args:
            door: name of the socket that it must connect to.

        Raises:
            OSError: it cannot be started.
        """
        self._door = door
        with _lock:
            if self._left:
                return  # another thread stopped the server in the meantime
            if any(one.link is not None and one.link.invite(door) for one in _linked):
                return
            _waiting.append(self)
            if len(_waiting) > 1:
                return  # invited as soon as the first one has its link
        launch.start(door)

    def enter(self, link: Link, page: Page) -> bool:
        """Take the new link; return False if this place was given up in the meantime.

        Args:
            page: gets the steps that are reported from now on.
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
        """Note that the sentinel is gone."""
        with _lock:
            self._unlink()

    def leave(self) -> Link | None:
        """Give up the place and return its link, which no longer carries invitations for other servers."""
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
    """Return whether the last server has given up its link."""
    return not _linked


def forget_all() -> None:
    """Reset everything in a forked child, which has no sentinel and none of our threads to hold the lock."""
    global _lock
    _lock = threading.RLock()
    _linked.clear()
    _waiting.clear()
    step.pages = ()


def sentinel_pid() -> int | None:
    """Return the pid of this process's sentinel, or None while it has none."""
    return next((link.pid for one in list(_linked) if (link := one.link) is not None), None)


def sentinel_serves() -> list[str]:
    """Return the addresses at which the sentinel answers while this process cannot; never a TLS address."""
    return sorted(one.address for one in list(_linked) if one.address is not None)
