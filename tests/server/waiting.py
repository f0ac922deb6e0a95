"""Threads that wait, each in another call, until the test lets them go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.eventually import wait_until
from torchctl.protocol.callreader import calls_from_json
from torchctl.protocol.calls import Calls, ThreadCalls
from torchctl.server.handlers.calling.document import calls_document


def read_calls() -> Calls:
    """Return what this process's other threads are calling, read as a command does."""
    return calls_from_json(calls_document())


def thread_of(calls: Calls, ident: int | None) -> ThreadCalls:
    return next(thread for thread in calls.threads if thread.ident == ident)


@contextlib.contextmanager
def waiting(call: Callable[[], Any], release: Callable[[], Any]) -> Iterator[ThreadCalls]:
    """Run a call on a thread of its own until it stands still; yield what is seen of it, and let it go at the end."""
    thread = threading.Thread(target=call, name="waiter")
    thread.start()
    seen: list[ThreadCalls] = []

    def stands() -> bool:
        seen.append(thread_of(read_calls(), thread.ident))
        time.sleep(0.02)
        return len(seen) > 1 and seen[-1] == seen[-2] and seen[-1].wait is not None

    try:
        wait_until(stands)
        yield seen[-1]
    finally:
        release()
        thread.join(30)
    assert not thread.is_alive()
