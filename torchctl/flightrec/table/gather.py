"""Many dumps, from files or workers, decoded by as many children as there are processors; a failure stops no other."""

from __future__ import annotations

import gc
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torchctl.errors import DumpError
from torchctl.flightrec.decoding.decode import decode_dump, rank_from_name, read_file
from torchctl.flightrec.decoding.guard import Guard
from torchctl.flightrec.decoding.raw import Failure, RawDump

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump
    from torchctl.flightrec.decoding.entries import Members

MAX_JOBS = 16
T = TypeVar("T")


def read_files(paths: Sequence[str]) -> Iterator[RawDump | Failure]:
    """Yield the bytes of each file, or why there are none, in the order given."""
    for path in paths:
        rank = rank_from_name(path)
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
    jobs = min(jobs or processors(), MAX_JOBS)
    waiting: queue.Queue[tuple[int, RawDump] | None] = queue.Queue(maxsize=jobs)
    made: dict[int, T] = {}
    failures: list[Failure] = []
    broken: list[BaseException] = []
    members: Members = {}

    def work() -> None:
        with Guard() as guard:
            try:
                guard.start()
                if meanwhile is not None:
                    meanwhile()
            except BaseException as error:
                broken.append(error)
            while (one := waiting.get()) is not None:
                if broken:
                    continue  # the queue is emptied, so that nobody waits for room in it
                number, raw = one
                try:
                    dump = decode_dump(raw.data, raw.source, guard=guard, whole=whole, members=members)
                    made[number] = make(replace(raw, data=b""), dump)
                except DumpError as error:
                    failures.append(Failure(raw.source, raw.rank, error))
                except BaseException as error:
                    broken.append(error)

    threads: list[threading.Thread] = []

    def one_more() -> None:
        if len(threads) < jobs:
            threads.append(threading.Thread(target=work, daemon=True))  # a second Ctrl-C waits for none
            threads[-1].start()

    one_more()
    try:
        for number, raw in enumerate(raw_dumps):
            if broken:
                break
            if isinstance(raw, Failure):
                failures.append(raw)
                continue
            waiting.put((number, raw))
            if not waiting.empty():
                one_more()
    except BaseException as error:  # Ctrl-C, too: the threads end after the dump that they are at
        broken.append(error)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    return [made[number] for number in sorted(made)], sorted(failures, key=order)


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
