"""Python's warning about threads at a fork: hidden if all the threads that it warns about are ours.

How this works: from 3.12 on, a fork with other threads causes a DeprecationWarning, shown in `__main__` and an error
under ``-W error``. Our accepting thread has ended by then (see `forking`), but Python 3.13 (up to 3.13.9) and 3.14.0
count threads only after the parent's hooks, which start that thread again; and a client being served has a thread too.
Without us such a program would not be warned. So before each fork we look at the threads. If they are all ours, we
prepend a filter for this one sentence about this one process; if there are others, we remove it, and the warning is the
trainer's. Nothing else prints that sentence. We change the list in place: announcing the change, as
`warnings.filterwarnings` does, would show every once-only warning again after each fork. A fork in a signal handler,
just as one of our threads starts or ends, still causes the warning.

Source: Modules/posixmodule.c, warn_about_fork_with_threads (3.12); python/cpython issue 137109.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import warnings
from typing import Any

_MAY_WARN = sys.version_info >= (3, 12)

_filter: tuple[Any, ...] | None = None


def before_fork() -> None:
    """Hide the warning for the next fork, or make sure that it is not hidden."""
    global _filter
    if not _MAY_WARN:
        return
    filters: Any = warnings.filters
    if _filter is not None:
        with contextlib.suppress(ValueError):
            filters.remove(_filter)
        _filter = None
    if _only_ours():
        sentence = re.compile(rf"This process \(pid={os.getpid()}\) is multi-threaded, use of fork")
        _filter = ("ignore", sentence, DeprecationWarning, None, 0)
        filters.insert(0, _filter)


def _only_ours() -> bool:
    """Return whether all threads that the kernel lists, except the calling one, are ours."""
    known = {thread.native_id for thread in threading.enumerate() if thread.name.startswith("torchctl-")}
    known.add(threading.get_native_id())
    try:
        return all(int(name) in known for name in os.listdir("/proc/self/task"))
    except OSError:
        return False
