"""Ask thousands of workers at once, on one thread: asyncio's loop, bare sockets, httptools' parser.

How this works: one task per worker connects, sends, and feeds what it reads to llhttp (`httptools`); there are no
streams or transports in between. Measured with 1024 pings (``tests/bench/bench_fanout.py``): this takes 83 ms,
asyncio's protocols with httptools 99 ms, a bare epoll loop 77 ms, aiohttp 390 ms.

One deadline ends everything. At most `jobs` workers are asked at a time, and waiting in that queue does not count
against a worker: one that was never asked gets a `NotAskedError`, not a timeout. While others wait, a worker that is
silent for its share of the time loses its turn, so that silent workers cannot starve the rest; if it answers later,
the answer still counts. Names are looked up on daemon threads, because a look-up cannot be interrupted and must not
outlive the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from torchctl.errors import NotAskedError, TooLargeError, WorkerError
from torchctl.workers.ask.connecting import connect_tcp, connect_unix, raise_file_limit
from torchctl.workers.ask.http import ResponseParser, request_bytes
from torchctl.workers.ask.outcome import Outcome, defect, is_stopped, stopped
from torchctl.workers.ask.progress import Progress
from torchctl.workers.ask.question import Conversation, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request
from torchctl.workers.ask.resolving import Resolver
from torchctl.workers.ask.translation import translated
from torchctl.workers.endpoint import Endpoint

T = TypeVar("T")
_CHUNK_BYTES = 1 << 18
_RESERVED_FILES = 64  # descriptors for everything else in this process
_PROGRESS_S = 0.1


class Many:
    """The transport for any number of listening workers.

    Args:
        jobs: how many are asked at the same time; None for all, as far as file descriptors allow.
        progress: shows how many have answered.
    """

    def __init__(self, jobs: int | None = None, progress: Progress | None = None) -> None:
        self._jobs = jobs
        self._progress = progress
        self._stopping: Callable[[], object] | None = None

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        files = raise_file_limit(len(endpoints) + _RESERVED_FILES) - _RESERVED_FILES
        run = _Run(endpoints, question, deadline, self._jobs or len(endpoints), max(1, files), self._progress)
        loop = asyncio.new_event_loop()
        self._stopping = partial(loop.call_soon_threadsafe, run.stop)
        try:
            with _interrupting(loop, run) as interrupts:
                loop.run_until_complete(run.main())
        finally:
            loop.close()
        outcomes = run.all_outcomes()
        if interrupts and not is_stopped(outcomes):
            raise KeyboardInterrupt  # everything was answered, so Ctrl-C is for the caller
        return outcomes

    def stop(self) -> None:
        if self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                self._stopping()


class _Worker(Generic[T]):
    """One worker being asked, and its progress."""

    __slots__ = ("began", "busy", "connected", "conversation", "endpoint", "holds_turn", "index")

    def __init__(self, index: int, endpoint: Endpoint, question: Question[T]) -> None:
        self.index = index
        self.endpoint = endpoint
        self.conversation = Conversation(question, endpoint)
        self.began = time.monotonic()
        self.connected = False
        self.busy = False  # the last connect found the backlog full
        self.holds_turn = True

    def note_busy(self, busy: bool) -> None:
        self.busy = busy

    def late(self) -> WorkerError:
        """Return the error for a worker that has not answered yet."""
        cause: Exception = BlockingIOError() if self.busy else TimeoutError()
        return translated(cause, self.endpoint, time.monotonic() - self.began, self.connected)


class _Run(Generic[T]):
    """One fan-out: the queue, the workers being asked, and the outcomes."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        question: Question[T],
        deadline: float,
        jobs: int,
        files: int,
        progress: Progress | None,
    ) -> None:
        self._endpoints = endpoints
        self._question = question
        self._deadline = deadline
        self._jobs = min(jobs, files)
        self._files = files
        self._progress = progress
        self._outcomes: list[Outcome[T] | None] = [None] * len(endpoints)
        self._done = 0
        self._turns = 0  # turns in use
        self._running: dict[asyncio.Task[None], _Worker[T]] = {}
        self._interrupted = False
        self._resolver = Resolver()

    async def main(self) -> None:
        """Ask all workers, until the deadline or `stop`."""
        if self._deadline <= time.monotonic():
            return
        self._stop, self._room = asyncio.Event(), asyncio.Event()
        ticker = asyncio.ensure_future(self._tick()) if self._progress is not None else None
        feeder = asyncio.ensure_future(self._feed())
        stop = asyncio.ensure_future(self._stop.wait())
        left = max(0.0, self._deadline - time.monotonic())
        await asyncio.wait({feeder, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if feeder.done():
            feeder.result()
        extra = [task for task in (feeder, stop, ticker) if task is not None]
        for worker in self._running.values():
            error = stopped(worker.endpoint) if self._interrupted else worker.late()
            self._outcomes[worker.index] = Outcome(worker.endpoint, None, error, worker.conversation.identity)
        for task in [*self._running, *extra]:
            task.cancel()
        await asyncio.gather(*self._running, *extra, return_exceptions=True)
        if self._progress is not None:
            self._progress.close()

    def stop(self) -> None:
        """Stop asking and waiting."""
        self._interrupted = True
        self._stop.set()

    def all_outcomes(self) -> list[Outcome[T]]:
        """Return one outcome per endpoint, after `main` has returned."""
        never = "was not asked: the deadline passed while it waited for its turn"
        return [
            outcome
            or Outcome(
                endpoint,
                None,
                stopped(endpoint)
                if self._interrupted
                else NotAskedError(never, endpoint=str(endpoint), rank=endpoint.rank),
            )
            for outcome, endpoint in zip(self._outcomes, self._endpoints, strict=True)
        ]

    async def _feed(self) -> None:
        """Start a task whenever a turn is free, then wait for the last one."""
        loop = asyncio.get_running_loop()
        queued = len(self._endpoints) > self._jobs
        share = (self._deadline - time.monotonic()) / (len(self._endpoints) // self._jobs + 2)
        for index, endpoint in enumerate(self._endpoints):
            while self._turns >= self._jobs or len(self._running) >= self._files:
                self._room.clear()
                await self._room.wait()
            worker = _Worker(index, endpoint, self._question)
            self._turns += 1
            task = loop.create_task(self._ask(worker))
            self._running[task] = worker
            task.add_done_callback(self._finished)
            if queued:
                loop.call_later(share, self._hand_on, worker)
        while self._running:
            self._room.clear()
            await self._room.wait()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._hand_on(self._running.pop(task))
        self._done += 1
        self._room.set()

    def _hand_on(self, worker: _Worker[T]) -> None:
        if worker.holds_turn:
            worker.holds_turn = False
            self._turns -= 1
            self._room.set()

    async def _ask(self, worker: _Worker[T]) -> None:
        endpoint, conversation = worker.endpoint, worker.conversation
        try:
            request = conversation.begin()
            while request is not None:
                try:
                    reply = await self._send(worker, request)
                except WorkerError as error:
                    request = conversation.fail(error)
                else:
                    request = conversation.answer(reply)
        except WorkerError as error:
            outcome: Outcome[T] = Outcome(endpoint, None, error, conversation.identity)
        except Exception as error:  # as in `converse`: a bug with one worker must not hide the others' answers
            outcome = Outcome(endpoint, None, defect(endpoint, error))
        else:
            outcome = Outcome(endpoint, conversation.value, None, conversation.identity)
        self._outcomes[worker.index] = outcome

    async def _send(self, worker: _Worker[T], request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        worker.connected = False
        sock: socket.socket | None = None
        try:
            if worker.endpoint.path:
                sock = await connect_unix(worker.endpoint.path, worker.note_busy)
            else:
                sock = await connect_tcp(worker.endpoint.host, worker.endpoint.port, self._resolver)
            worker.connected = True
            parser = ResponseParser(request.max_bytes)
            if worker.endpoint.ca:
                await _over_tls(loop, sock, worker.endpoint, request, parser)
            else:
                await loop.sock_sendall(sock, request_bytes(worker.endpoint, request))
                while not parser.complete:
                    parser.feed(await loop.sock_recv(sock, _CHUNK_BYTES))
            return parser.reply(time.monotonic() - began)
        except TooLargeError as error:
            raise TooLargeError(error.detail, endpoint=str(worker.endpoint), rank=worker.endpoint.rank) from None
        except (OSError, ValueError) as error:
            raise translated(error, worker.endpoint, time.monotonic() - began, worker.connected) from error
        finally:
            if sock is not None:
                sock.close()

    async def _tick(self) -> None:
        assert self._progress is not None
        while True:
            await asyncio.sleep(_PROGRESS_S)
            first = next(iter(self._running.values()), None)  # tasks are in the order they started
            slowest = "" if first is None else _name(first.endpoint)
            self._progress.update(self._done, len(self._endpoints), slowest)


async def _over_tls(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, endpoint: Endpoint, request: Request, parser: ResponseParser
) -> None:
    from torchctl.workers.ask.tls import AsyncTls

    tls = AsyncTls(loop, sock, endpoint.ca, endpoint.host)
    await tls.handshake()
    await tls.send(request_bytes(endpoint, request))
    while not parser.complete:
        parser.feed(await tls.receive())


def _name(endpoint: Endpoint) -> str:
    return str(endpoint) if endpoint.rank is None else f"rank {endpoint.rank}"


@contextlib.contextmanager
def _interrupting(loop: asyncio.AbstractEventLoop, run: _Run[Any]) -> Iterator[list[int]]:
    """Make Ctrl-C stop the run cleanly; the yielded list collects all signals received, however late."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    loop.add_signal_handler(signal.SIGINT, run.stop)
    # Replaces asyncio's handler, which does nothing: the loop learns of a signal through its wake-up descriptor, and
    # only while it runs.
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        loop.remove_signal_handler(signal.SIGINT)
