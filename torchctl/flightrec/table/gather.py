"""Decode many dumps, from files or workers, in one child per processor; one failure does not stop the others."""

from __future__ import annotations

import gc
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from torchctl.errors import DumpError
from torchctl.flightrec.decoding.decode import decode_dump, read_file
from torchctl.flightrec.decoding.guard import Guard
from torchctl.flightrec.decoding.raw import Failure, RawDump

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump
    from torchctl.flightrec.decoding.entries import Members
    from torchctl.flightrec.table.folder import Found

MAX_JOBS = 16
T = TypeVar("T")


def read_files(files: Sequence[Found]) -> Iterator[RawDump | Failure]:
    """Yield the bytes of each file, or the failure to read it, in the order given."""
    for path, rank in ((file.path, file.rank) for file in files):
        try:
            data = read_file(path)
            written_ns = os.stat(path).st_mtime_ns
        except DumpError as error:
            yield Failure(path, rank, error)
        except OSError as error:  # the file was removed in the meantime
            yield Failure(path, rank, DumpError(f"{path} cannot be read: {error.strerror}"))
        else:
            yield RawDump(path, rank, data, written_ns=written_ns)


def decode_each(
    raw_dumps: Iterable[RawDump | Failure],
    make: Callable[[RawDump, Dump], T],
    *,
    jobs: int | None = None,
    whole: bool = True,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[list[T], list[Failure]]:
    """Return the result of `make` for each dump, in the order given, and the failures sorted by rank and source.

    Dumps are decoded by limited children, each driven by a thread that mostly waits. A dump is released as soon as
    `make` returns, so memory holds only the results, even for a thousand dumps.

    Args:
        raw_dumps: iterated over in this thread, starting while the first child boots, and only as fast as the
            children decode.
        make: called in any of the threads; if it raises DumpError, that is the dump's failure.
        jobs: maximum number of children; `processors` by default.
        whole: as in `decode_dump`.
        meanwhile: called in each thread while its child starts, such as for imports that `make` needs.
    """
    pool = _Pool(make, min(jobs or processors(), MAX_JOBS), whole, meanwhile)
    pool.run(raw_dumps)
    return [pool.made[number] for number in sorted(pool.made)], sorted(pool.failures, key=order)


class _Pool(Generic[T]):
    """Threads that each drive one decoding child; another one is started only while all others are busy.

    How this works. The calling thread puts dumps into a queue with room for one per child, and at the end one `None`
    per thread. An exception in a thread is raised again in the calling thread. A thread that fails, including the
    calling thread on Ctrl-C, sets `stopped`; the queue is then drained and discarded, so that no thread waits for room.
    """

    def __init__(
        self, make: Callable[[RawDump, Dump], T], jobs: int, whole: bool, meanwhile: Callable[[], object] | None
    ) -> None:
        self.make, self.jobs, self.whole, self.meanwhile = make, jobs, whole, meanwhile
        self.made: dict[int, T] = {}
        self.failures: list[Failure] = []
        self.waiting: queue.Queue[tuple[int, RawDump] | None] = queue.Queue(maxsize=jobs)
        self.members: Members = {}
        self.threads: list[threading.Thread] = []
        self.stopped = threading.Event()
        self.raised: list[BaseException] = []

    def run(self, raw_dumps: Iterable[RawDump | Failure]) -> None:
        """Decode all dumps; return when all threads have finished.

        Raises:
            BaseException: whatever iterating, `make` or starting a child raised, except a dump's DumpError.
        """
        self._start_one()
        all_given = False
        try:
            for number, raw in enumerate(raw_dumps):
                if self.stopped.is_set():
                    break
                if isinstance(raw, Failure):
                    self.failures.append(raw)
                    continue
                self.waiting.put((number, raw))
                if not self.waiting.empty() and len(self.threads) < self.jobs:
                    self._start_one()
            all_given = True
        finally:
            if not all_given:
                self.stopped.set()  # each thread ends after its current dump
            for _ in self.threads:
                self.waiting.put(None)
            for thread in self.threads:
                thread.join()
        if self.raised:
            raise self.raised[0]

    def _start_one(self) -> None:
        self.threads.append(
            threading.Thread(target=self._work, daemon=True)
        )  # daemon, so that a second Ctrl-C does not wait
        self.threads[-1].start()

    def _work(self) -> None:
        ended = False
        try:
            with Guard() as guard:
                guard.start()
                if self.meanwhile is not None:
                    self.meanwhile()
                while (one := self.waiting.get()) is not None:
                    if not self.stopped.is_set():
                        self._decode(*one, guard)
                ended = True
        except BaseException as error:
            self.raised.append(error)
            self.stopped.set()
            while not ended:
                ended = self.waiting.get() is None

    def _decode(self, number: int, raw: RawDump, guard: Guard) -> None:
        try:
            dump = decode_dump(raw.data, raw.source, guard=guard, whole=self.whole, members=self.members)
            self.made[number] = self.make(replace(raw, data=b""), dump)
        except DumpError as error:
            self.failures.append(Failure(raw.source, raw.rank, error))


def processors() -> int:
    """Return how many processors this process may use, which a container or scheduler may limit."""
    return len(os.sched_getaffinity(0))


@contextmanager
def collector_off() -> Iterator[None]:
    """Stop the garbage collector from walking the dumps again and again while they are built and held."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def order(one: RawDump | Failure) -> tuple[bool, int, str]:
    """Return a sort key: by rank, dumps without a rank last."""
    return one.rank is None, one.rank or 0, one.source
