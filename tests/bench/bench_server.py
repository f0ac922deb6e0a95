"""The worker-side server beside torch's own, with the same client, in turns: latency, and abuse."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.figures import in_turns, report, timed
from tests.processes import Process

ROUNDS, PINGS, DUMPS = 41, 100, 20
ABUSE_TIMEOUT_S = 20.0
KINDS = ("torch", "ours")


class Client:
    """A bare HTTP client on one connection, or on one per request."""

    def __init__(self, address: str, keep: bool) -> None:
        self.address, self.keep = address, keep
        self.socket: socket.socket | None = None

    def post(self, handler: str) -> bytes:
        sock = self.socket or connect(self.address)
        head = f"POST /handler/{handler} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        sock.sendall((head + ("\r\n" if self.keep else "Connection: close\r\n\r\n")).encode())
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + length(data[:end]):
            chunk = sock.recv(1 << 16)
            if not chunk:
                raise ConnectionError("closed inside an answer")
            data += chunk
        assert data.startswith(b"HTTP/1.1 200"), data[:100]
        last = not self.keep or b"connection: close" in data[:end].lower()
        self.socket = None if last else sock
        if last:
            sock.close()
        return data[end + 4 :]


def length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


def connect(address: str, timeout_s: float = ABUSE_TIMEOUT_S) -> socket.socket:
    if address.startswith("tcp:"):
        sock = socket.create_connection(("127.0.0.1", int(address[4:])), timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    sock.settimeout(timeout_s)
    return sock


@contextlib.contextmanager
def peers(where: str) -> Iterator[dict[str, str]]:
    """Start both servers; give their addresses."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tc-"))
        addresses = {}
        for kind in KINDS:
            path = where if where == "tcp" else f"{folder}/{kind}"
            process = Process([sys.executable, "-m", "tests.bench.peer", kind, path])
            stack.callback(process.end)
            port = process.line().split()[1]
            addresses[kind] = f"tcp:{port}" if where == "tcp" else path
        yield addresses


def latency(where: str, handler: str, keep: bool, count: int) -> None:
    """Print the time of one request, both sides in turns; a round's figure is the median of `count`."""
    with peers(where) as addresses:
        clients = {kind: Client(address, keep) for kind, address in addresses.items()}

        def median_of(client: Client) -> float:
            times = sorted(timed(lambda: client.post(handler)) for _ in range(count))
            return times[count // 2]

        sides = {kind: (lambda client=client: median_of(client)) for kind, client in clients.items()}
        connection = "one connection" if keep else "a new connection each"
        report(f"{handler} over {where}, {connection} ({ROUNDS} rounds of {count})", in_turns(sides, ROUNDS))


def abuse(title: str, connections: int, drip: bool) -> None:
    """Print how long a good client's first and following pings take while bad ones hold connections."""
    print(title)
    for kind in KINDS:
        with peers("unix") as addresses, contextlib.ExitStack() as stack:
            address = addresses[kind]
            bad = [stack.enter_context(connect(address)) for _ in range(connections)]
            stop = threading.Event()
            if drip:
                thread = threading.Thread(target=dripping, args=(bad, stop))
                thread.start()
                stack.callback(thread.join)
            stack.callback(stop.set)
            time.sleep(0.2)  # the bad ones are all in place
            times: list[float] = []
            good = Client(address, keep=False)
            with contextlib.suppress(OSError):
                for _ in range(20):
                    times.append(timed(lambda good=good: good.post("ping")))  # type: ignore[misc]
            if times:
                print(
                    f"  {kind:8} first ping {times[0]:.1f} ms, slowest of {len(times)}: {max(times):.1f} ms", flush=True
                )
            else:
                print(f"  {kind:8} no answer within {ABUSE_TIMEOUT_S:g} s", flush=True)


def dripping(bad: list[socket.socket], stop: threading.Event) -> None:
    """Send a byte of a header a second on every connection."""
    for sock in bad:
        with contextlib.suppress(OSError):
            sock.sendall(b"POST /handler/ping HTTP/1.1\r\nX-A: ")
    while not stop.wait(1.0):
        for sock in bad:
            with contextlib.suppress(OSError):
                sock.sendall(b"a")


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Run this process and what it starts on one core: else luck decides whether a wake-up crosses to another."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    print("on one core: ", end="")
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def main() -> None:
    for where in ("unix", "tcp"):
        with one_core():
            latency(where, "ping", keep=True, count=PINGS)
    latency("unix", "ping", keep=True, count=PINGS)
    latency("unix", "ping", keep=False, count=PINGS)
    latency("unix", "dump_traceback", keep=False, count=DUMPS)
    latency("tcp", "ping", keep=True, count=PINGS)
    abuse("ping beside 512 idle connections", 512, drip=False)
    abuse("ping beside 64 clients that send a byte a second", 64, drip=True)


if __name__ == "__main__":
    main()
