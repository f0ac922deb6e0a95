"""What the kernel reports about a thread of this process: its CPU time, and the function that it sleeps in.

How this works: if a busy trainer wants the interpreter lock, releasing it costs us 5 ms each time, and Python releases
it for every file operation. We read the CPU time from the thread's clock, for which Python keeps the lock, and the wait
channel with libc's calls through `ctypes.PyDLL`, which keep it for the microseconds that /proc takes. The interpreter
may hand over the lock after a call, but not while a `for` takes the next item, so we open, read and close the file that
way: no Python code in the trainer can close our descriptor and reuse its number before we close it. Without ctypes
there is no wait channel.

Source: Linux' include/linux/posix-timers_types.h for the number of a thread's clock; proc_pid_wchan in fs/proc/base.c.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache

_PER_THREAD, _SCHEDULED = 4, 2  # CPUCLOCK_PERTHREAD_MASK, CPUCLOCK_SCHED
_MAX_BYTES = 128


def cpu_ns(native_id: int) -> int | None:
    """Return the nanoseconds that a thread has run so far, or None if there is no thread with that id."""
    try:
        return time.clock_gettime_ns((~native_id << 3) | _PER_THREAD | _SCHEDULED)
    except (OSError, OverflowError, ValueError):
        return None


def wait_channel(native_id: int) -> str:
    """Return the kernel function in which a thread sleeps, or "" if it is running or the kernel does not say."""
    read = _reader()
    name = read(b"/proc/self/task/%d/wchan" % native_id).decode("ascii", "replace") if read is not None else ""
    return "" if name == "0" or not name.isprintable() else name


@lru_cache(maxsize=1)
def _reader() -> Callable[[bytes], bytes] | None:
    """Return a function that reads the start of a small file (b"" if there is no file), or None without ctypes."""
    try:
        import ctypes

        libc = ctypes.PyDLL(None)
        open_file, read_file, close_file = libc["open"], libc["read"], libc["close"]
    except (ImportError, AttributeError, OSError):
        return None
    flags = os.O_RDONLY | os.O_CLOEXEC

    def read(path: bytes) -> bytes:
        content = ctypes.create_string_buffer(_MAX_BYTES)
        number, size = [-1], [0]
        opening = map(open_file, (path,), (flags,))
        reading, closing = map(read_file, iter(number), (content,), (_MAX_BYTES,)), map(close_file, iter(number))
        for number[0] in opening:
            for size[0] in reading:
                for _ in closing:
                    pass
        return content.raw[: max(size[0], 0)]

    return read
