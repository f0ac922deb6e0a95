"""Parses stacks as `py-spy dump` prints them, as text and as JSON.

Source: py-spy 0.4.3, src/dump.rs (text, with `--locals` below a frame) and src/stack_trace.rs (JSON).
"""

from __future__ import annotations

import json
import re
from typing import Any

from torchctl.protocol.stacktext import MAIN_THREAD
from torchctl.stacks.stack import MAX_FRAMES, MAX_THREADS, StackFrame, Stacks, ThreadStack

# A whole line: the thread's id, its status (idle, active+gil), its name.
HEADING = r'Thread (0x[0-9a-fA-F]{1,16}|\d{1,20}) \([a-z+]+\)(?:: "(.*)")?[ \t]*'
_THREAD = re.compile(HEADING)
PROCESS = r"Process (\d{1,10}): (.*)"  # a whole line: pid and command
LIST = re.compile(r"\s*\[\s*[{\]]")  # start of its JSON
_FRAME = re.compile(r"    (\S.*) \((.*?)(?::(\d{1,9}))?\)")  # deeper indentation: variables
_PROCESS = re.compile(PROCESS)


def parse_pyspy(text: str) -> Stacks:
    """Return the stacks in a `py-spy dump`; if it has several processes, the first one's.

    Raises:
        ValueError: it holds no thread.
    """
    return _stacks(*_from_text(text))


def stacks_from_json(text: str) -> Stacks:
    """Return the first process's stacks in a `py-spy dump --json`; raises as `parse_pyspy`."""
    return next(iter(processes_from_json(text).values()))


def processes_from_json(text: str) -> dict[int | None, Stacks]:
    """Return the stacks of each process in a `py-spy dump --json`, by pid, in the order given.

    Raises:
        ValueError: it is something else, or holds no thread.
    """
    found: dict[int | None, list[ThreadStack]] = {}
    try:
        document = json.loads(text)
        if not isinstance(document, list) or len(document) > MAX_THREADS:
            raise ValueError("it is not a list of threads, or it is too long")
        for thread in document:
            pid = thread.get("pid")
            found.setdefault(pid if isinstance(pid, int) else None, []).append(_thread(thread))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the JSON is not in py-spy's format: {type(error).__name__}") from error
    return {pid: _stacks(pid, threads) for pid, threads in found.items() or [(None, [])]}


def _stacks(pid: int | None, threads: list[ThreadStack]) -> Stacks:
    if not threads:
        raise ValueError("it holds no thread's stack")
    main = _main(threads, pid)
    return Stacks(
        tuple(
            ThreadStack(thread.ident, thread.name, index == main, thread.frames) for index, thread in enumerate(threads)
        )
    )


def _main(threads: list[ThreadStack], pid: int | None) -> int:
    """Return the index of the main thread: the one named so, else the one whose id is the pid, else the last."""
    for index, thread in enumerate(threads):
        if thread.main:
            return index
    for index, thread in enumerate(threads):
        if thread.ident == pid:
            return index
    return len(threads) - 1


def _from_text(text: str) -> tuple[int | None, list[ThreadStack]]:
    found: list[tuple[int, str, list[StackFrame]]] = []
    pid = None
    for line in text.split("\n"):
        if match := _PROCESS.fullmatch(line):
            if found:
                break  # a child process, not the rank itself
            pid = int(match[1])
        if match := _THREAD.fullmatch(line):
            found.append((int(match[1], 0), match[2] or "", []))
        elif (match := _FRAME.fullmatch(line.rstrip())) and found and len(found[-1][2]) < MAX_FRAMES:
            found[-1][2].append(StackFrame(match[2], int(match[3] or 0), match[1]))
        if len(found) > MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
    return pid, [ThreadStack(ident, name, name == MAIN_THREAD, tuple(frames)) for ident, name, frames in found]


def _thread(thread: Any) -> ThreadStack:
    name = thread.get("thread_name") or ""
    frames = []
    for frame in thread["frames"][:MAX_FRAMES]:
        line = frame.get("line") or 0
        if not all(isinstance(frame[key], str) for key in ("filename", "name")) or not isinstance(line, int):
            raise TypeError("no frame")
        frames.append(StackFrame(frame["filename"][:4096], max(0, line), frame["name"][:4096]))
    if not isinstance(name, str) or not isinstance(thread["thread_id"], int):
        raise TypeError("no thread")
    return ThreadStack(thread["thread_id"] & ((1 << 64) - 1), name, name == MAIN_THREAD, tuple(frames))
