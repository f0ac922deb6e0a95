"""Converts a process's start time from the kernel's clock ticks since boot.

Source: proc(5), field 22 of /proc/PID/stat and btime of /proc/stat.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

from torchctl.process.samples import read


def start_time(ticks: int | None) -> float | None:
    """Return a start time in seconds since the epoch, or None if /proc does not say.

    Args:
        ticks: from `samples.start_ticks`.
    """
    boot = _boot_time()
    return None if ticks is None or boot is None else round(boot + _seconds(ticks), 2)


def age_s(ticks: int | None) -> float | None:
    """Return how many seconds ago a process was started, by a clock that is never set; None for None."""
    return None if ticks is None else round(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - _seconds(ticks)), 3)


def _seconds(ticks: int) -> float:
    return ticks / os.sysconf("SC_CLK_TCK")


@lru_cache(maxsize=1)
def _boot_time() -> int | None:
    """Return when this host was booted, in seconds since the epoch.

    Read only once: the value changes when the clock is set, and a process must not get two start times.
    """
    for line in read("/proc/stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return None
