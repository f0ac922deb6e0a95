"""Resolve host names for an asyncio loop, on daemon threads, so that a hanging look-up blocks nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from typing import Any

Address = tuple[socket.AddressFamily, Any]
_MAX_THREADS = 32


class Resolver:
    """Looks up each host once; numeric addresses need no look-up."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[list[Address]]] = {}
        self._queue: deque[str] = deque()
        self._threads = 0
        self._lock = threading.Lock()

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses to connect to, in the system's order.

        Raises:
            OSError: the name cannot be resolved; `socket.gaierror` if the resolver reported it.
        """
        with contextlib.suppress(OSError):
            socket.inet_pton(socket.AF_INET, host)
            return [(socket.AF_INET, (host, port))]
        with contextlib.suppress(socket.gaierror):
            numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            return [
                (found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
            ]
        if host not in self._futures:
            self._futures[host] = asyncio.get_running_loop().create_future()
            self._begin(host)
        found = await asyncio.shield(self._futures[host])
        return [(family, (address[0], port, *address[2:])) for family, address in found]

    def _begin(self, host: str) -> None:
        with self._lock:
            self._queue.append(host)
            if self._threads < _MAX_THREADS:
                self._threads += 1
                loop = asyncio.get_running_loop()
                threading.Thread(target=self._work, args=(loop,), name="torchctl-resolve", daemon=True).start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host = self._queue.popleft()
            try:
                found: list[Address] | OSError = [
                    (one[0], one[4]) for one in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
                ]
            except (OSError, UnicodeError) as error:
                found = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "no such name")
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                loop.call_soon_threadsafe(self._end, host, found)

    def _end(self, host: str, found: list[Address] | OSError) -> None:
        future = self._futures[host]
        if future.done():
            return
        if isinstance(found, OSError):
            future.set_exception(found)
            future.exception()  # mark it as retrieved, even if nothing waits for it now
        else:
            future.set_result(found)
