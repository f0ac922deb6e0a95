"""Stacks as ``py-spy dump`` prints them.

Source: py-spy's src/dump.rs (0.4): a heading per process, then threads, frames innermost first::

    Process 4711: python train.py
    Python v3.11.7 (/usr/bin/python3.11)

    Thread 4711 (idle): "MainThread"
        wait (threading.py:320)
        <module> (train.py:38)
"""

from __future__ import annotations

import re

from torchctl.stacks.stack import MAIN_THREAD, MAX_FRAMES, MAX_THREADS, StackFrame, Stacks, ThreadStack

_THREAD = re.compile(r"Thread (0x[0-9a-fA-F]{1,16}|\d{1,19}) \(([^()]*)\)(?:: \"(.*)\")?")
_FRAME = re.compile(r"    (\S.*) \((.*?)(?::(\d{1,9}))?\)")
_PROCESS = re.compile(r"Process (\d{1,10}): (.*)")


def is_pyspy(text: str) -> bool:
    """Whether the text is py-spy's rather than faulthandler's."""
    return any(_THREAD.fullmatch(line) or _PROCESS.fullmatch(line) for line in text.lstrip()[:2000].splitlines())


def parse_pyspy(text: str) -> Stacks:
    """Return the stacks of the first process in py-spy's text; those of its children are passed over.

    The main thread is the one of that name, else the one whose id is the process's, else the last.

    Raises:
        ValueError: there is no thread in it.
    """
    pid, threads = -1, list[tuple[int, str, list[StackFrame]]]()
    for line in text.splitlines():
        if match := _PROCESS.fullmatch(line):
            if threads:
                break  # of --subprocesses: the data loader's workers and the like
            pid = int(match[1])
        elif match := _THREAD.fullmatch(line):
            threads.append((int(match[1], 0), match[3] or "", []))
        elif (match := _FRAME.fullmatch(line)) and threads and len(threads[-1][2]) < MAX_FRAMES:
            threads[-1][2].append(StackFrame(match[2], int(match[3] or 0), match[1]))
        if len(threads) > MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
    if not threads:
        raise ValueError("no thread's stack is in it")
    main = _main(threads, pid)
    return Stacks(
        tuple(
            ThreadStack(ident, name, index == main, tuple(frames))
            for index, (ident, name, frames) in enumerate(threads)
        )
    )


def _main(threads: list[tuple[int, str, list[StackFrame]]], pid: int) -> int:
    for index, (_, name, _) in enumerate(threads):
        if name == MAIN_THREAD:
            return index
    for index, (ident, _, _) in enumerate(threads):
        if ident == pid:
            return index
    return len(threads) - 1
