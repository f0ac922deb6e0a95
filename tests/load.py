"""Bad clients, in a process of their own: ``python -m tests.load KIND COUNT ADDRESS``.

Prints ``ready`` when its clients are in place, ``done`` when it has nothing more to do, and ends with its stdin. The
address is a socket's path or HOST:PORT. It raises its own limit of descriptors, and nobody else's.
"""

from __future__ import annotations

import contextlib
import random
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

from tests.http_client import connect
from tests.processes import Process, running

KINDS = {"idle": 512, "slow": 64, "garbage": 10_000, "half-closed": 1000}
_BYTE_EVERY_S = 1.0
_LATER_S = 0.05  # before a client that was turned away comes again


@contextlib.contextmanager
def load(kind: str, address: str, count: int | None = None) -> Iterator[Process]:
    """Let `count` bad clients loose on a server for the length of the block."""
    arguments = [sys.executable, "-m", "tests.load", kind, str(KINDS[kind] if count is None else count), address]
    with running(arguments) as process:
        process.wait_for("ready")
        yield process


def stdin_ended(timeout_s: float) -> bool:
    return bool(select.select([sys.stdin], [], [], timeout_s)[0])


def opened(address: str) -> socket.socket | None:
    try:
        return connect(address, 20.0)
    except OSError:  # its backlog is full
        return None


def idle(count: int, address: str) -> None:
    """Hold connections and send nothing, whatever the server makes of them."""
    held = [sock for _ in range(count) if (sock := opened(address)) is not None]
    print("ready\ndone", flush=True)
    stdin_ended(1000.0)
    del held


def slow(count: int, address: str) -> None:
    """Send a byte of a header a second on each connection; who is thrown out comes again."""
    held: list[socket.socket | None] = [opened(address) for _ in range(count)]
    for sock in held:
        with contextlib.suppress(OSError):
            if sock is not None:
                sock.sendall(b"POST /handler/ping HTTP/1.1\r\nX-A: ")
    print("ready\ndone", flush=True)
    while not stdin_ended(_BYTE_EVERY_S):
        for index, sock in enumerate(held):
            try:
                if sock is None:
                    raise ConnectionResetError
                sock.setblocking(False)
                sock.send(b"a")
                with contextlib.suppress(BlockingIOError):
                    if not sock.recv(4096):
                        raise ConnectionResetError
            except OSError:
                if sock is not None:
                    sock.close()
                held[index] = opened(address)


def garbage(count: int, address: str) -> None:
    """Send requests that are none, one after the other, and read what comes back."""
    source = random.Random(7)
    print("ready", flush=True)
    for index in range(count):
        while (sock := opened(address)) is None:
            time.sleep(_LATER_S)
        blob = source.randbytes((1, 20, 500, 9000)[index % 4])
        with sock, contextlib.suppress(OSError):
            sock.sendall((blob, blob + b"\r\n\r\n", b"POST /handler/ping HTTP/1.1\r\n" + blob)[index % 3])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    print("done", flush=True)
    stdin_ended(1000.0)


def half_closed(count: int, address: str) -> None:
    """Connect, send half a request or nothing, close the sending side, and never read nor close."""
    held = []
    print("ready", flush=True)
    for index in range(count):
        while (sock := opened(address)) is None:
            time.sleep(_LATER_S)
        with contextlib.suppress(OSError):
            sock.sendall((b"", b"POST /hand", b"POST /handler/dump_traceback HTTP/1.1\r\n\r\n")[index % 3])
            sock.shutdown(socket.SHUT_WR)
        held.append(sock)
    print("done", flush=True)
    stdin_ended(1000.0)
    del held


def main() -> None:
    kind, count, address = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard != resource.RLIM_INFINITY else 8192, hard))
    kinds: dict[str, Callable[[int, str], None]] = {
        "idle": idle,
        "slow": slow,
        "garbage": garbage,
        "half-closed": half_closed,
    }
    kinds[kind](count, address)


if __name__ == "__main__":
    main()
