"""Reads the stacks of many workers in any format; identical stacks are parsed once and shared.

How this works: the first whole line that is a thread heading, wherever it is, decides which format a text has. Long
paths or log lines before it do not matter. Equal stacks are one object, so merging can group them without comparing
frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torchctl.protocol import stacktext
from torchctl.stacks import pyspy
from torchctl.stacks.faulthandler import Body, parse_faulthandler, read_body
from torchctl.stacks.json import split_calls, stacks_from_json
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

Frames = tuple[StackFrame, ...]

_OBJECT = re.compile(r'\s*\{\s*"')
_HEADING = re.compile(f"^(?:{stacktext.HEADING}|(?P<pyspy>{pyspy.HEADING}))$", re.MULTILINE)


def parse_stacks(data: bytes) -> Stacks:
    """Return the stacks of one worker; see `StackReader.read`."""
    return StackReader().read(data)


class _Bodies(dict[str, Body]):
    """The stack below each heading, by its text; a text is parsed on first lookup."""

    def __init__(self, keep: Callable[[Frames], Frames]) -> None:
        super().__init__()
        self._keep = keep

    def __missing__(self, body: str) -> Body:
        frames, complete = read_body(body)
        read = self[body] = (self._keep(frames), complete)
        return read


class StackReader:
    """Parses one dump after another.

    Attributes:
        distinct: the number of different stacks so far.
    """

    def __init__(self) -> None:
        self._frames: dict[Frames, Frames] = {}
        self._bodies = _Bodies(self.keep)

    @property
    def distinct(self) -> int:
        return len(self._frames)

    def read(self, data: bytes) -> Stacks:
        """Return the stacks in one worker's answer or in a file: JSON, faulthandler's text, or py-spy's.

        Raises:
            ValueError: it is none of these; the message says what is wrong.
        """
        text = data.decode("utf-8", "replace")
        if _OBJECT.match(text):
            return self.shared(stacks_from_json(text))
        if pyspy.LIST.match(text):
            return self.shared(pyspy.stacks_from_json(text))
        return self.read_text(text.replace("\r\n", "\n") if "\r" in text else text)

    def read_text(self, text: str) -> Stacks:
        """Return the stacks in faulthandler's or py-spy's text, with line feeds as line endings; raises as `read`."""
        text, calls = split_calls(text)
        heading = _HEADING.search(text)
        if heading is None:
            raise ValueError("it holds no thread's stack")
        if heading["pyspy"] is not None:
            return self.shared(pyspy.parse_pyspy(text))
        stacks = parse_faulthandler(text, self._bodies.__getitem__)
        return stacks if calls is None else Stacks(stacks.threads, stacks.truncated, calls)

    def shared(self, stacks: Stacks) -> Stacks:
        """Return the same stacks, with frames replaced by equal ones seen before."""
        threads = (
            ThreadStack(thread.ident, thread.name, thread.main, self.keep(thread.frames), thread.complete)
            for thread in stacks.threads
        )
        return Stacks(tuple(threads), stacks.truncated, stacks.calls)

    def keep(self, frames: Frames) -> Frames:
        """Return the one object that equal frames share."""
        return self._frames.setdefault(frames, frames)
