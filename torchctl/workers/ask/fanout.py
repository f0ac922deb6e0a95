"""Ask many workers with one deadline. The only place that knows which transport reaches which worker.

How this works: an endpoint says how to reach its worker. A single worker is asked over urllib3, several on one
asyncio loop, a process without a server through py-spy, another host through its relay. If a command needs several of
these, they run in parallel: the first on the calling thread, which receives Ctrl-C and passes it on, the others on
threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from torchctl.workers.ask.outcome import Outcome, is_stopped
from torchctl.workers.ask.progress import Progress
from torchctl.workers.ask.question import Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request
from torchctl.workers.ask.threads import Threads
from torchctl.workers.ask.transport import Transport
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")
_PROCESSES = 8  # py-spy runs at a time; each is a process that reads another's memory


def ask_all(
    endpoints: Sequence[Endpoint],
    question: Question[T],
    deadline: float,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    relays: Transport | None = None,
) -> list[Outcome[T]]:
    """Ask all workers at once and return one outcome per endpoint, in their order, those from relays last.

    Args:
        endpoints: the workers to ask.
        deadline: `time.monotonic` seconds; no wait lasts longer.
        jobs: how many are asked at the same time; by default all, as far as file descriptors allow.
        progress: shows how many have answered, if there are several workers.
        relays: the transport for other hosts; required if an endpoint is a host.
    """
    listening = [one for one in endpoints if not one.node and one.pid is None]
    processes = [one for one in endpoints if one.pid is not None]
    hosts = [one for one in endpoints if one.node]
    parts: list[tuple[Transport, list[Endpoint]]] = []
    if listening:
        parts.append((_to_listeners(len(listening), jobs, progress), listening))
    if processes:
        parts.append((Threads(_from_outside, min(jobs or _PROCESSES, _PROCESSES)), processes))
    if hosts:
        assert relays is not None
        parts.append((relays, hosts))
    if len(parts) < 2:
        return [one for transport, asked in parts for one in transport.ask(asked, question, deadline)]
    found = _beside(parts, question, deadline)
    there = found.pop() if hosts else []
    here = {one.endpoint: one for part in found for one in part}
    return [here[one] for one in endpoints if not one.node] + there


def ask_one(endpoint: Endpoint, question: Question[T], deadline: float) -> Outcome[T]:
    """Ask one worker and return its outcome; see `ask_all`."""
    return ask_all([endpoint], question, deadline)[0]


def _to_listeners(count: int, jobs: int | None, progress: Progress | None) -> Transport:
    if count == 1:
        return Threads(_alone, 1)
    from torchctl.workers.ask.many import Many

    return Many(jobs, progress)


# Imported on the asking thread, where Ctrl-C cannot interrupt an import.
def _alone(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    from torchctl.workers.ask.one import send

    return send(endpoint, request, deadline)


def _from_outside(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    from torchctl.workers.ask.outside import send

    return send(endpoint, request, deadline)


def _beside(
    parts: Sequence[tuple[Transport, list[Endpoint]]], question: Question[T], deadline: float
) -> list[list[Outcome[T]]]:
    """Ask through several transports in parallel, the first on this thread; Ctrl-C stops all."""
    (transport, asked), *others = parts
    threads = [_Part(other, endpoints, question, deadline) for other, endpoints in others]
    try:
        found = [transport.ask(asked, question, deadline)]
    except BaseException:
        for thread in threads:
            thread.stop()
        raise
    interrupted = is_stopped(found[0])
    for thread in threads:
        if interrupted:
            thread.stop()
        try:
            thread.ended.wait()
        except KeyboardInterrupt:
            interrupted = True
            thread.stop()
            thread.ended.wait()
        found.append(thread.outcomes())
    return found


class _Part(Generic[T]):
    """One transport that starts asking on a daemon thread at once.

    Attributes:
        ended: wait for this, not the thread: an interrupted `Thread.join` marks the thread as ended (Python 3.11).
    """

    def __init__(self, transport: Transport, endpoints: list[Endpoint], question: Question[T], deadline: float) -> None:
        self.ended = threading.Event()
        self.stop = transport.stop
        self._found: list[Outcome[T]] = []
        self._failure: list[BaseException] = []
        threading.Thread(target=self._run, args=(transport, endpoints, question, deadline), daemon=True).start()

    def _run(self, transport: Transport, endpoints: list[Endpoint], question: Question[T], deadline: float) -> None:
        try:
            self._found = transport.ask(endpoints, question, deadline)
        except BaseException as error:
            self._failure.append(error)
        finally:
            self.ended.set()

    def outcomes(self) -> list[Outcome[T]]:
        """Return the outcomes, or raise the exception that ended the thread."""
        if self._failure:
            raise self._failure[0]
        return self._found
