"""A Python traceback in a log, line by line, as one process prints it among the lines of others."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from torchctl.logs.patterns import meaning_of
from torchctl.logs.said import Frame, Line, Raised, Speaker
from torchctl.stacks.codepaths import nearest_frame

MAX_FRAMES = 400
MAX_STRANGE = 3  # lines of others that may be among those of a traceback
_FRAME = re.compile(r' {2}File "(?P<file>[^"]{1,1000})", line (?P<line>\d{1,9}), in (?P<function>.{1,200})')
_LAST = re.compile(r"(?P<kind>[A-Za-z_][\w.]{0,300})(?:: (?P<message>.*))?\Z", re.DOTALL)
_REPEATED = re.compile(r"  \[Previous line repeated \d{1,9} more times?\]")
_CATEGORY = re.compile(r"[A-Z_]+\Z")  # INFO, WARNING: no class of an exception
Outcome = Literal["taken", "strange", "ended"]


@dataclass(slots=True)
class Traceback:
    """A traceback that has begun.

    Attributes:
        indent: blanks before each of its lines, in torchrun's summary.
        by_hook: its lines begin with the rank, as torch's excepthook prints them.
        original: it is the one of another process that an exception passes on.
        aside: of an exception of which no process ends, in a thread or a destructor.
    """

    who: Speaker
    begun: Line
    indent: int = 0
    by_hook: bool = False
    original: bool = False
    aside: bool = False
    raised: Raised | None = None
    frames: list[Frame] = field(default_factory=list)
    strange: int = 0

    @property
    def torn(self) -> bool:
        """Whether too many lines of others have come since its last one."""
        return self.strange > MAX_STRANGE

    def take(self, text: str, line: Line) -> Outcome:
        """Take the next line of the same speaker, and say whether it belongs to the traceback and ends it."""
        if self.indent and not text.startswith(" " * self.indent):
            return self._strange(text)
        text = text[self.indent :]
        if match := _FRAME.match(text):
            if len(self.frames) < MAX_FRAMES:
                self.frames.append(Frame(match["file"], int(match["line"]), match["function"].strip()))
            self.strange = 0
            return "taken"
        if text.startswith("    "):
            if self.frames and not self.frames[-1].code and text.strip(" ^~-"):
                last = self.frames[-1]
                self.frames[-1] = Frame(last.file, last.line, last.function, text.strip()[:200])
            return "taken"
        if _REPEATED.match(text):
            return "taken"
        match = _LAST.match(text.rstrip())
        kind = "" if match is None else match["kind"].rpartition(".")[2]
        if match is None or not kind[:1].isupper() or _CATEGORY.match(kind):
            return self._strange(text)
        self._end(match["kind"], match["message"] or "", line)
        return "ended"

    def _strange(self, text: str) -> Outcome:
        self.strange += bool(text.strip())
        return "strange"

    def _end(self, kind: str, message: str, line: Line) -> None:
        at = nearest_frame([frame.file for frame in reversed(self.frames)])
        frame = None if at is None else self.frames[len(self.frames) - 1 - at]
        if frame is None and self.frames:
            frame = self.frames[-1]
        when = line.when or self.begun.when
        known = meaning_of(line.text[:4000])
        self.raised = Raised(
            self.who,
            Line(line.source, line.number, line.text, when),
            kind,
            message[:1000],
            frame,
            None if known is None else (known[0], known[1].groupdict("")),
            self.by_hook and not self.aside,
            aside=self.aside,
        )
