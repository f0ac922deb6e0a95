"""Asking many workers at once: ours beside torch.distributed.debug's own fetch, over the same endpoints in one run.

``--clients all`` adds the client libraries that were measured to choose one. Prints, asserts nothing but the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.servers import serving
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.request import handler_request
from torchctl.workers.endpoint import Endpoint

Fetch = Callable[[Sequence[int], str, float], Counter[int]]
_STATUS = {"ok": 200, "refused": 503, "timeout": 408}


def ours(ports: Sequence[int], path: str, timeout_s: float) -> Counter[int]:
    @Question
    def question(endpoint: Endpoint) -> Asking[bytes]:
        return (yield handler_request(path)).body

    asked = [Endpoint(host="127.0.0.1", port=port) for port in ports]
    outcomes = ask_all(asked, question, time.monotonic() + timeout_s)
    return Counter(_STATUS["ok" if one.error is None else one.error.kind] for one in outcomes)


def torchs(name: str) -> Fetch:
    """Return torch's fetch: fetch_aiohttp or fetch_thread_pool of torch/distributed/debug/_frontend.py (2.13)."""
    from torch.distributed.debug import _frontend

    fetch = getattr(_frontend, name)

    def call(ports: Sequence[int], path: str, timeout_s: float) -> Counter[int]:
        urls = [f"http://127.0.0.1:{port}/handler/{path}" for port in ports]
        return Counter(reply.status_code for reply in fetch(urls, timeout_s))

    return call


def h11_on_asyncio(ports: Sequence[int], path: str, timeout_s: float) -> Counter[int]:
    import socket

    import h11

    async def one(loop: asyncio.AbstractEventLoop, port: int) -> int:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method="POST", target=f"/handler/{path}", headers=[("Host", "x"), ("Content-Length", "0")]
        )
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, connection.send(request) + connection.send(h11.EndOfMessage()))
            status = 0
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await loop.sock_recv(sock, 1 << 18))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.EndOfMessage):
                    return status

    async def all_of_them() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(one(loop, port) for port in ports))

    return Counter(asyncio.run(all_of_them()))


def httpx_(ports: Sequence[int], path: str, timeout_s: float) -> Counter[int]:
    import httpx

    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=timeout_s, limits=limits, trust_env=False) as client:
            replies = await asyncio.gather(*(client.post(f"http://127.0.0.1:{port}/handler/{path}") for port in ports))
        return [reply.status_code for reply in replies]

    return Counter(asyncio.run(all_of_them()))


def urllib3_on_threads(ports: Sequence[int], path: str, timeout_s: float) -> Counter[int]:
    from torchctl.workers.ask.one import send
    from torchctl.workers.ask.threads import Threads

    @Question
    def question(endpoint: Endpoint) -> Asking[bytes]:
        return (yield handler_request(path)).body

    asked = [Endpoint(host="127.0.0.1", port=port) for port in ports]
    outcomes = Threads(send, 64).ask(asked, question, time.monotonic() + timeout_s)
    return Counter(200 if one.error is None else 0 for one in outcomes)


def healthy(clients: dict[str, Fetch], counts: Sequence[int], repeats: int) -> None:
    """Print the best of the repeats and, in brackets, the least of the client's own processor time; clients take turns.

    The best, since on a shared machine everything above it is somebody else's work.
    """
    print(f"{'endpoints':>9}  {'body':>6}  " + "  ".join(f"{name + ' ms (cpu)':>22}" for name in clients) + "  ratio")
    for count in counts:
        with serving(count) as served:
            for path, size in (("ping", "4 B"), ("big", "100 kB")):
                runs: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
                wrong = ""
                for _ in range(repeats + 1):  # the first pays for imports and first use
                    for name, fetch in clients.items():
                        began, cpu = time.perf_counter(), time.process_time()
                        statuses = fetch(served.good, path, 30)
                        runs[name].append((time.perf_counter() - began, time.process_time() - cpu))
                        wrong += "" if statuses == {200: count} else f"  {name} WRONG {dict(statuses)}"
                best = [[min(column[1:]) * 1000 for column in zip(*times, strict=True)] for times in runs.values()]
                cells = [f"{f'{wall:.1f} ({cpu:.0f})':>22}" for wall, cpu in best]
                ratio = f"{best[1][0] / best[0][0]:7.2f}"  # of torch's faster form to ours
                print(f"{count:>9}  {size:>6}  " + "  ".join(cells) + ratio + wrong, flush=True)


def faulty(clients: dict[str, Fetch], silent_share: float) -> None:
    count, timeout_s = 1024, 2.0
    silent, dead = round(count * silent_share), round(count * 0.05)
    right = {200: count - silent - dead, 503: dead, 408: silent}
    print(f"\n{count} endpoints, {dead} dead, {silent} silent, deadline {timeout_s:g} s; right: {right}")
    with serving(count - silent - dead, silent, dead) as served:
        ports = [*served.good, *served.holes, *served.dead]
        random.Random(3).shuffle(ports)
        for name, fetch in clients.items():
            began = time.perf_counter()
            statuses = fetch(ports, "ping", timeout_s)
            took = time.perf_counter() - began
            print(f"  {name:<18} {took:5.2f} s  {'right' if statuses == right else f'WRONG {dict(statuses)}'}")


def whole_process(count: int = 1024) -> None:
    """Print what a process takes from its start to its end, for the same pings."""
    theirs = (
        "import sys\nfrom torch.distributed.debug._frontend import fetch_aiohttp\n"
        "fetch_aiohttp([f'http://127.0.0.1:{p}/handler/ping' for p in sys.argv[1:]], 30)\n"
    )
    with serving(count) as served:
        hosts = [f"--host=127.0.0.1:{port}" for port in served.good]
        commands = {
            "torchctl ping": [sys.executable, "-m", "torchctl", "ping", *hosts],
            "torch's fetch": [sys.executable, "-c", theirs, *map(str, served.good)],
        }
        print(f"\nwhole process, {count} pings")
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(4):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
        mine, torchs_ = (min(column) for column in times.values())
        for name, column in times.items():
            print(f"  {name:<18} {min(column):5.2f} s", flush=True)
        print(f"  ratio              {torchs_ / mine:5.2f}")


def single(repeats: int = 300) -> None:
    """Print what one worker costs through `ask_all` and straight through its client."""
    from tests.asking import call
    from torchctl.workers.questions.basic import ping

    with serving(1) as served:
        endpoint = Endpoint(host="127.0.0.1", port=served.good[0])
        both: dict[str, Callable[[], Any]] = {
            "its client": lambda: call(endpoint, "ping", time.monotonic() + 5),
            "through `ask_all`": lambda: ask_all([endpoint], ping, time.monotonic() + 5),
        }
        print("\none worker")
        for name, ask in both.items():
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                ask()
                times.append((time.perf_counter() - began) * 1000)
            print(f"  {name:<18} {statistics.median(times):5.2f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clients", choices=["torch", "all"], default="torch")
    options = parser.parse_args()
    clients: dict[str, Fetch] = {"torchctl": ours, "fetch_aiohttp": torchs("fetch_aiohttp")}
    clients["fetch_thread_pool"] = torchs("fetch_thread_pool")
    if options.clients == "all":  # httpx takes minutes at 1024
        clients |= {"asyncio+h11": h11_on_asyncio, "httpx": httpx_, "urllib3 threads": urllib3_on_threads}
    healthy(clients, options.n, options.repeats)
    for share in (0.01, 0.12):
        faulty({name: clients[name] for name in ("torchctl", "fetch_aiohttp", "fetch_thread_pool")}, share)
    whole_process()
    single()


if __name__ == "__main__":
    main()
