"""When a process was started, and how long ago."""

import os
import time

from tests.processes import python
from torchctl.process.samples import start_ticks
from torchctl.process.started import age_s, start_time


def test_a_process_that_has_just_been_started() -> None:
    before = time.time()
    with python("print('ready', flush=True)\nsys.stdin.readline()\n".join(["import sys\n", ""])) as process:
        process.wait_for("ready")
        ticks = start_ticks(process.pid)
        started, age = start_time(ticks), age_s(ticks)
        now = time.time()
    assert started is not None and age is not None
    assert before - 2 < started <= now  # the boot time that it counts from is in whole seconds
    assert 0 <= age <= now - before + 0.1


def test_one_that_is_not_there_has_no_start() -> None:
    assert (start_ticks(1 << 30), start_time(None), age_s(None)) == (None, None, None)


def test_a_process_knows_itself_by_its_pid_and_as_self() -> None:
    assert start_ticks("self") == start_ticks(os.getpid()) is not None
