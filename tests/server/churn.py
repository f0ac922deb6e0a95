"""The calls of a busy process, read over and over: threads come and go, all do what could be disturbed, nothing is.

``python -m tests.server.churn READS`` for a long run; it prints how many readings there were, and what grew.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

from tests.eventually import wait_until
from torchctl.protocol.callreader import calls_from_json
from torchctl.server.handlers.calling.document import calls_document

LONG = 100_000
LIMIT_KIB = 4096
# Functions that pass for torch.distributed's: their variables are read, and their frames are at each of their lines.
_SOURCE = """
def all_reduce(tensor, op=None, group=None, src=0, tag=0, ranks=()):
    tag = src + 1
    tensor = make()
    watch(tensor)
    values = [tag + number for number in range(3)]
    callback = lambda: src + tag
    src = sum(map(lambda number: number + callback(), values))
    pause()
    tensor = None
    pause()
    check_gone()
    return src, tag, values

def broadcast(tensor, src=0, tag=0):
    seen = locals()
    seen["src"], tag = -1, 5
    before = dict(seen)
    pause()
    assert {name: seen[name] for name in before} == before
    return src, tag
"""


class Value:
    """What a variable holds; can be watched."""


def _functions() -> dict[str, Any]:
    """Return the functions; a value that a thread watches is gone with its variable, but for a reading just then."""
    watched = threading.local()

    def watch(value: Value) -> None:
        watched.value = weakref.ref(value)

    def check_gone() -> None:
        if sys.gettrace() is None or sys.version_info >= (3, 13):  # before, tracing itself keeps what it has seen
            wait_until(lambda: watched.value() is None)

    names = {"make": Value, "watch": watch, "check_gone": check_gone, "pause": lambda: time.sleep(0.0005)}
    exec(compile(_SOURCE, "/site-packages/torch/distributed/distributed_c10d.py", "exec"), names)
    return names


def _numbers(count: int) -> Iterator[int]:
    for number in range(count):
        held = number * 2
        yield held - number


async def _turns(count: int) -> int:
    total = 0
    for number in range(count):
        held = number
        await asyncio.sleep(0)
        total += held
    return total


def _sorted(count: int) -> list[int]:
    def key(number: int) -> int:
        doubled = number * 2
        return -doubled

    return sorted(range(count), key=key)  # C, which calls back


def _tracer(frame: types.FrameType, event: str, argument: Any) -> Any:
    return _tracer


def _work(functions: dict[str, Any], errors: list[BaseException], traced: bool) -> None:
    if traced:
        sys.settrace(_tracer)
    try:
        assert functions["all_reduce"](Value(), src=4, tag=9) == (45, 5, [5, 6, 7])
        if not traced:  # before 3.13 tracing writes what `locals()` has back into the variables
            assert functions["broadcast"](None, src=1) == (1, 5)
        assert list(_numbers(50)) == list(range(50))
        assert asyncio.run(_turns(20)) == sum(range(20))
        assert _sorted(50) == list(range(49, -1, -1))
    except BaseException as error:
        errors.append(error)
    finally:
        sys.settrace(None)


def churn(reads: int, lanes: int = 4) -> int:
    """Read that many times beside threads that end and begin; return by how many KiB the process grew after a tenth.

    Raises:
        AssertionError, or what a thread has raised: something was disturbed.
    """
    functions, ended = _functions(), False
    errors: list[BaseException] = []

    def lane(number: int) -> None:
        while not ended and not errors:
            thread = threading.Thread(target=_work, args=(functions, errors, number % 2 == 0))
            thread.start()
            thread.join()

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    settled = 0
    seen: set[str] = set()
    try:
        for count in range(reads):
            document = calls_document()
            if count % 50 == 0:
                seen |= {call.function for one in calls_from_json(document).threads for call in one.calls}
            if count == reads // 10:
                gc.collect()
                settled = _resident_kib()
            if errors:
                break
    finally:
        ended = True
        for thread in threads:
            thread.join(60)
    if errors:
        raise errors[0]
    assert {"all_reduce", "broadcast"} <= seen
    gc.collect()
    return _resident_kib() - settled


def _resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def main() -> None:
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else LONG
    began = time.monotonic()
    grown = churn(reads)
    took = time.monotonic() - began
    print(
        f"Python {sys.version.split()[0]}: {reads} readings in {took:.0f} s, the process grew by {grown} KiB",
        flush=True,
    )
    assert grown < LIMIT_KIB


if __name__ == "__main__":
    main()
