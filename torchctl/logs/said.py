"""What logs say, line by line: events, exceptions, and what is left to know of each log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchctl.logs.moment import Moment
from torchctl.logs.pattern import Pattern
from torchctl.text import printable

MAX_SHOWN = 400  # characters of a line in evidence
_CUT = "..."
_MAX_WORDS = 200  # of an exception in a sentence
MASK = "***"
# Unlike an argument of a command, nearly every second line of a log has "key" or "token" in it: KeyError, tokens/s,
# a key of the store. So only names that hold secrets, and what looks like one itself.
_NAMED = re.compile(
    r"(?i)\b((?:[\w.-]{0,60}?(?:api_?key|access_?key|secret_?key|private_?key|auth_?token|access_?token|_token|secret"
    r"|passw(?:or)?d|credentials?)|token)[\"']?\s{0,3}[=:]\s{0,3}[\"']?(?:bearer |basic )?)([^\s\"',;&}\]]{1,400})"
)
_BEARER = re.compile(r"(?i)\b(authorization: (?:bearer|basic) )\S{1,400}")
_LOOKS_SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,80}|sk-[\w-]{16,200}|AKIA[A-Z0-9]{12,20}|gh[pousr]_\w{16,80})\b")
_URL_PASSWORD = re.compile(r"(\w{1,20}://[^/\s:@]{0,100}:)[^/\s@]{1,200}@")


def shown(text: str) -> str:
    """Return a line as evidence: without secrets and control characters, and not too long."""
    text = _NAMED.sub(rf"\1{MASK}", text[: 4 * MAX_SHOWN])
    text = _LOOKS_SECRET.sub(MASK, _URL_PASSWORD.sub(rf"\1{MASK}@", _BEARER.sub(rf"\1{MASK}", text)))
    text = printable(text.strip())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - len(_CUT)] + _CUT


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says a line, as far as it and its file say so.

    Attributes:
        source: the file, as it is shown.
        rank: stated; None if it is not.
        local_rank: within a node, which is the rank if there is only one node.
        label: of a host, a pod, a service or a task; "" if there is none.
        host: of the machine; "" if unknown.
    """

    source: str
    rank: int | None = None
    local_rank: int | None = None
    label: str = ""
    host: str = ""
    pid: int | None = None
    task: int | None = None

    @property
    def place(self) -> str:
        """Where a process without a rank is spoken of: "node3, train.log"."""
        return ", ".join(filter(None, (self.host or self.label, self.source)))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log as evidence; `when` is None if neither it nor one shortly before says when."""

    source: str
    number: int
    text: str
    when: Moment | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.number}: {shown(self.text)}"


@dataclass(frozen=True, slots=True)
class Event:
    """A line that is understood.

    Attributes:
        about: the groups of the pattern.
        fatal: who says it ends.
    """

    pattern: Pattern
    who: Speaker
    line: Line
    about: Mapping[str, str]
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a traceback; `code` is its source line, "" if the traceback does not show it."""

    file: str
    line: int
    function: str
    code: str = ""


@dataclass(slots=True)
class Raised:
    """An exception with its traceback.

    Attributes:
        line: where its last line is, "ValueError: no batch".
        frame: the user's innermost frame, or the nearest; None if there is none.
        meaning: the pattern of the table that the last line matches, with its groups; None if there is none.
        by_hook: printed by torch's excepthook, which runs only if the process ends of it.
        after: lines that follow in its log and are not understood; many if the process went on.
        before: what it was raised while handling, or what caused it.
        inner: the exception in another process that it passes on.
        aside: no process ends of it: it was raised in a thread, a destructor or a logger.
    """

    who: Speaker
    line: Line
    kind: str
    message: str
    frame: Frame | None
    meaning: tuple[Pattern, Mapping[str, str]] | None
    by_hook: bool = False
    after: int = 0
    before: Raised | None = None
    inner: Raised | None = None
    aside: bool = False

    @property
    def words(self) -> str:
        """Return "ValueError: no batch"."""
        name = self.kind.rpartition(".")[2]
        said = shown(f"{name}: {self.message}" if self.message else name).rstrip(".")
        return said if len(said) <= _MAX_WORDS else f"{said[:_MAX_WORDS]}..."


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a process, as torchrun, Slurm, a shell or the kernel saw it.

    Attributes:
        code: the exit code, negative for a signal; None if it is not known.
        root: torchrun calls it the root cause.
    """

    who: Speaker
    line: Line
    code: int | None
    pid: int | None = None
    root: bool = False


@dataclass(slots=True)
class Log:
    """What one log says.

    Attributes:
        file: what its path says of who wrote it.
        speakers: those that state a rank, or a label that may be one.
        lines: how many it has.
        last: its last line that is not empty.
    """

    file: Speaker
    events: list[Event] = field(default_factory=list)
    raised: list[Raised] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    speakers: set[Speaker] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)
    lines: int = 0
    last: Line | None = None

    @property
    def says_anything(self) -> bool:
        return bool(self.events or self.raised or self.ended)
