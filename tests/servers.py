"""Many HTTP endpoints in one process of their own: what a fan-out is tried against.

Run as a script: ``python servers.py COUNT HOLES BYTES``; prints the ports as one JSON line, then serves until its
stdin ends. The stacks of one rank differ from all others'. Holes accept and never answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tests.processes import running
from tests.stacks.texts import STUCK, WAITING, dump

STUCK_RANK = 17


@dataclass(frozen=True)
class Served:
    """Ports of endpoints that answer, of holes, and of nobody."""

    good: list[int]
    holes: list[int]
    dead: list[int]


@contextlib.contextmanager
def serving(count: int, holes: int = 0, dead: int = 0, size_bytes: int = 100_000) -> Iterator[Served]:
    """Serve `count` endpoints and `holes`; `dead` ports refuse. ``/big`` answers `size_bytes`, all else pong."""
    arguments = [sys.executable, __file__, str(count), str(holes), str(size_bytes)]
    with running(arguments, {"PYTHONPATH": os.getcwd()}) as process, contextlib.ExitStack() as stack:
        ports = json.loads(process.line())
        refusing = []
        for _ in range(dead):  # bound and not listening: refused for as long as the socket lives
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            refusing.append(sock.getsockname()[1])
        yield Served(ports["good"], ports["holes"], refusing)


class _Answering(asyncio.Protocol):
    def __init__(self, rank: int, world: int, big: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nTorchctl-Rank: {rank}\r\nTorchctl-World-Size: {world}\r\n"
        self._pong = f"{head}Content-Length: 4\r\n\r\npong".encode()
        self._big = f"{head}Content-Length: {len(big)}\r\n\r\n".encode() + big
        stacks = dump(rank, STUCK if rank == STUCK_RANK else WAITING)
        self._stacks = f"{head}Content-Length: {len(stacks)}\r\n\r\n".encode() + stacks
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head, self._data = self._data[:end], self._data[end + 4 :]
            path = head.split(b"\r\n", 1)[0]
            self._transport.write(
                self._big if b"/big" in path else self._stacks if b"/dump_traceback" in path else self._pong
            )
            if b"connection: close" in head.lower():
                self._transport.close()


async def _serve(count: int, holes: int, size_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    big = b"x" * size_bytes
    ports: dict[str, list[int]] = {"good": [], "holes": []}
    for kind, number in (("good", count), ("holes", holes)):
        for rank in range(number):
            make = partial(_Answering, rank, count, big) if kind == "good" else asyncio.Protocol
            server = await loop.create_server(make, "127.0.0.1", 0, backlog=64)
            ports[kind].append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    ended = asyncio.Event()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:])))
    os._exit(0)
