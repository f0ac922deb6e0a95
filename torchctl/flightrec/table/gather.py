"""Many dumps, from files or workers, decoded by as many children as there are processors; a failure stops no other."""

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
    """Yield the bytes of each file, or why there are none, in the order given."""
    for path, rank in ((file.path, file.rank) for file in files):
        try:
            data = read_file(path)
            written_ns = os.stat(path).st_mtime_ns
        except DumpError as error:
            yield Failure(path, rank, error)
        except OSError as error:  # it went away in between
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
    """Return what `make` makes of each dump, in the order given, and the failures sorted by rank and source.

    Dumps are decoded by limited children, each driven by a thread that mostly waits. A dump is given up as soon as
    something has been made of it: of a thousand dumps, only what was made of them is in memory.

    Args:
        raw_dumps: iterated over in this thread, while the first child starts, and no further than children can follow.
        make: called in any of the threads; a DumpError that it raises is that dump's failure.
        jobs: how many children at most; `processors` by default.
        whole: as in `decode_dump`.
        meanwhile: called in each thread while its child starts: imports that `make` needs.
    """
    pool = _Pool(make, min(jobs or processors(), MAX_JOBS), whole, meanwhile)
    pool.run(raw_dumps)
    return [pool.made[number] for number in sorted(pool.made)], sorted(pool.failures, key=order)


class _Pool(Generic[T]):
    """Threads that each drive one decoding child; one after the other is started while all before it are busy.

    How this works. The calling thread puts dumps into a queue with room for one a child, and `None` for each thread at
    the end. What a thread raises is raised in the calling one. A thread that fails, the calling one by Ctrl-C included,
    sets `stopped`: what is in the queue is then taken out and left, so that no one waits for room in it.
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
        """Decode all dumps; return when no thread is left.

        Raises:
            BaseException: whatever iterating, `make` or starting a child has raised, a dump's DumpError apart.
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
                self.stopped.set()  # the threads end after the dump that they are at
            for _ in self.threads:
                self.waiting.put(None)
            for thread in self.threads:
                thread.join()
        if self.raised:
            raise self.raised[0]

    def _start_one(self) -> None:
        self.threads.append(threading.Thread(target=self._work, daemon=True))  # a second Ctrl-C waits for none
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
    """Return how many processors this process may use: a container or a scheduler may have given it few of many."""
    return len(os.sched_getaffinity(0))


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector from walking dumps again and again while they are built and held."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def order(one: RawDump | Failure) -> tuple[bool, int, str]:
    """Ranks in order, those without one last."""
    return one.rank is None, one.rank or 0, one.source
