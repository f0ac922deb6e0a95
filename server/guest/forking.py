"""What happens to the servers when the trainer forks, as data loaders do.

How this works: the accepting threads end before the fork and start again in the parent. So an idle server adds no
thread to the process at the moment of the fork, and none of its locks can be held in the child. The child serves
nothing and closes the descriptors that it inherited, so that a data loader that outlives its trainer does not keep the
socket alive. Threads that serve a connection stay: they end by themselves, and a client is waiting for them.
`forkwarning` handles Python's warning about all this.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Protocol

from torchctl.server.guest import forkwarning

_THREAD_END_TIMEOUT_S = 0.05


class Forkable(Protocol):
    """What a server must provide to take part in forks."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def release(self) -> None: ...


_live: dict[int, Forkable] = {}  # by id; copied in one step before iterating: a signal handler may shut one down
_lock = threading.RLock()  # reentrant: a signal handler that interrupts us may fork too
_forks_under_way = 0


def watch(server: Forkable) -> None:
    """Take part in forks from now on."""
    _live[id(server)] = server


def forget(server: Forkable) -> None:
    """Stop taking part."""
    _live.pop(id(server), None)


def _before() -> None:
    global _forks_under_way
    with _lock:
        _forks_under_way += 1
        if _forks_under_way == 1 and _live:
            own = _own_threads()
            for server in list(_live.values()):
                with contextlib.suppress(Exception):
                    server.pause()
            _wait_for_the_kernel(own)
        with contextlib.suppress(Exception):
            forkwarning.before_fork()


def _in_parent() -> None:
    global _forks_under_way
    with _lock:
        _forks_under_way -= 1
        if _forks_under_way == 0:
            for server in list(_live.values()):
                with contextlib.suppress(Exception):
                    server.resume()


def _in_child() -> None:
    global _lock, _forks_under_way
    _lock = threading.RLock()
    _forks_under_way = 0
    for server in list(_live.values()):
        with contextlib.suppress(Exception):
            server.release()
    _live.clear()


def _own_threads() -> list[int]:
    """Return the kernel's ids of the accepting threads."""
    threads = threading.enumerate()
    return [thread.native_id for thread in threads if thread.name == "torchctl-accept" and thread.native_id]


def _wait_for_the_kernel(native_ids: list[int]) -> None:
    """Wait until ended threads are gone from the kernel too, a moment after Python considers them ended."""
    deadline = time.monotonic() + _THREAD_END_TIMEOUT_S
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/self/task/{number}") for number in native_ids):
        time.sleep(0.0002)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
