"""Workers that are not there: one thread answers on a Unix socket per rank, with what the test gives it to answer.

An answer is a function of nothing, called at each request, so that a worker can move between two of them.
"""

from __future__ import annotations

import json
import pickle
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchctl.server.handlers.digest import digest_of

Answer = Callable[[str], bytes]
TRACES = ("dump_nccl_trace_pickle", "fr_trace_pickle")


@dataclass
class Worker:
    """One rank: its answers by handler, and what it has been asked (handler and query).

    `degraded` is since when and why a sentinel answers in its place, as its header has it.
    """

    rank: int
    answers: dict[str, Answer]
    recorder: str = "generic"
    pid: int = 1
    job: str | None = None
    degraded: str = ""
    asked: list[str] = field(default_factory=list)


def worker_of(
    rank: int, world: int, dump: Callable[[], dict[str, Any]], *, knows_digest: bool = True, stack: str = ""
) -> Worker:
    """Return a worker whose recorder holds what `dump` says at the moment of the request."""

    def whole(query: str) -> bytes:
        made = dict(dump())
        if "includestacktraces=false" in query:
            made["entries"] = [{k: v for k, v in one.items() if k != "frames"} for one in made["entries"]]
        return pickle.dumps(made, 2)

    def digest(query: str) -> bytes:
        made = pickle.loads(whole("includestacktraces=false"))
        return pickle.dumps(digest_of(made), 2)

    def counters(query: str) -> bytes:
        made = dump()
        return json.dumps(
            {"version": made["version"], "pg_status": made.get("pg_status") or len(made["entries"])}
        ).encode()

    info = {"schema": "torchctl.info/1", "rank": rank, "world_size": world, "host": "node", "pid": 1}
    answers: dict[str, Answer] = {
        "info": lambda query: json.dumps(info).encode(),
        "dump_nccl_trace_pickle": whole,
        "dump_nccl_trace_json": counters,
    }
    if knows_digest:
        answers["fr_digest"] = digest
    if stack:
        answers["dump_traceback"] = lambda query: stack.encode()
    return Worker(rank, answers)


@contextmanager
def working(folder: Path, workers: list[Worker]) -> Iterator[None]:
    """Answer for all workers, each on a socket of the folder, until the block ends."""
    selector = selectors.DefaultSelector()
    ended = threading.Event()
    listeners = []
    for worker in workers:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"rank{worker.rank}.sock"))
        listener.listen(64)
        listeners.append(listener)
        selector.register(listener, selectors.EVENT_READ, worker)
    failures: list[BaseException] = []

    def serve() -> None:
        while not ended.is_set():
            for key, _ in selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                connection, _ = sock.accept()
                with connection:
                    try:
                        connection.settimeout(10)
                        request = connection.recv(65536).decode("latin-1")
                        if request:  # nothing from who only looks who listens
                            connection.sendall(_answer(key.data, request))
                    except OSError:
                        pass  # the asking side has hung up
                    except BaseException as error:
                        failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)
        for listener in listeners:
            listener.close()
        selector.close()
    assert not failures, failures


def _answer(worker: Worker, request: str) -> bytes:
    path = request.split(" ", 2)[1].removeprefix("/handler/")
    handler, _, query = path.partition("?")
    worker.asked.append(path)
    answer = worker.answers.get(handler)
    if answer is None and worker.degraded:
        return _http("503 Service Unavailable", b"its sentinel has none", worker)
    if answer is None:
        return _http("404 Not Found", f"Handler {handler} not found: Failed to find handler {handler}".encode(), worker)
    return _http("200 OK", answer(query), worker)


def _http(status: str, body: bytes, worker: Worker) -> bytes:
    head: Mapping[str, object] = {
        "Content-Length": len(body),
        "Torchctl-Rank": worker.rank,
        "Torchctl-Pid": worker.pid,
        "Torchctl-Recorder": worker.recorder,
        **({} if worker.job is None else {"Torchctl-Job": worker.job}),
        **({"Torchctl-Degraded": worker.degraded} if worker.degraded else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body
