"""Reads the stacks of many workers: a stack that several have in the same words is read once and shared.

How this works: the dumps of a job are nearly all alike, but for the threads' addresses. So the text is cut at the
threads' headings, and what stands below a heading is looked up among the texts read before. A dump then costs a
split and a few look-ups, and equal stacks are one object, by which merging groups them without comparing frames.
"""

from __future__ import annotations

import re

from torchctl.stacks.pyspy import is_pyspy, parse_pyspy
from torchctl.stacks.stack import FRAME, MAX_FRAMES, MAX_THREADS, THREAD, StackFrame, Stacks, ThreadStack, main_at
from torchctl.stacks.stack import parse_stacks as parse_alone

Frames = tuple[StackFrame, ...]

_HEADING = re.compile(f"^{THREAD.pattern}$", re.MULTILINE)
_END_OF_ALL = "\n...\n"


class StackReader:
    """Parses one dump after the other.

    Attributes:
        distinct: how many different stacks there were so far.
    """

    def __init__(self) -> None:
        self._texts: dict[str, tuple[Frames, bool]] = {}
        self._frames: dict[Frames, Frames] = {}

    @property
    def distinct(self) -> int:
        return len(self._frames)

    def read(self, data: bytes) -> Stacks:
        """Return the stacks in one worker's answer or in a file: JSON, faulthandler's text, or py-spy's.

        Raises:
            ValueError: none of them; the message says what is wrong.
        """
        text = data.decode("utf-8", "replace")
        if text.lstrip()[:1] == "{":
            return self.shared(parse_alone(data))
        if is_pyspy(text):
            return self.shared(parse_pyspy(text))
        return self._read_faulthandler(text)

    def shared(self, stacks: Stacks) -> Stacks:
        """Return the same stacks, their frames replaced by equal ones that were seen before."""
        threads = (
            ThreadStack(thread.ident, thread.name, thread.main, self.keep(thread.frames), thread.complete)
            for thread in stacks.threads
        )
        return Stacks(tuple(threads), stacks.truncated)

    def keep(self, frames: Frames) -> Frames:
        """Return the one object that stands for these frames."""
        return self._frames.setdefault(frames, frames)

    def _read_faulthandler(self, text: str) -> Stacks:
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        parts = _HEADING.split(text)  # before, then (address, name, body) per thread
        count = len(parts) // 3
        if count == 0:
            raise ValueError("no thread's stack is in it")
        if count > MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
        truncated = "\n..." in parts[-1] and _END_OF_ALL in parts[-1].rstrip() + "\n"
        names = [name or "" for name in parts[2::3]]
        main = main_at(names, truncated)
        threads = []
        for index in range(count):
            body = parts[3 * index + 3]
            known = self._texts.get(body)
            if known is None:
                known = self._texts[body] = self._read_body(body)
            threads.append(ThreadStack(int(parts[3 * index + 1], 16), names[index], index == main, *known))
        return Stacks(tuple(threads), truncated)

    def _read_body(self, body: str) -> tuple[Frames, bool]:
        frames: list[StackFrame] = []
        complete = True
        for line in body.splitlines():
            match = FRAME.fullmatch(line)
            if match and len(frames) < MAX_FRAMES:
                frames.append(StackFrame(match[1], int(match[2]) if match[2] != "???" else 0, match[3]))
            elif line == "  ...":
                complete = False
        return self.keep(tuple(frames)), complete
