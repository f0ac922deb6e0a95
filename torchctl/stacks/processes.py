"""Splits a text that holds the stacks of several processes, and collects what it says about each.

How this works. Launcher prefixes are stripped first. Then one search finds the lines that start something:
`=== Rank 3: URL ===` from torch's debug server, a line `RANK=3`, `Process 4011: python train.py` from py-spy, a file
name between arrows as `tail` prints it, a host's heading as clush, Ansible and people write it, and thread headings.
faulthandler does not mark where a process begins: its main thread is the last, and a thread that appears again
belongs to a later dump of the same process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from torchctl.protocol import stacktext
from torchctl.stacks import pyspy
from torchctl.stacks.prefixes import Stream, streams_of
from torchctl.stacks.purpose import purpose_of
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks

MAX_PROCESSES = 100_000
_CLAIM = (  # deeper indentation: py-spy's variables
    r"(?!    )[^\w\n]{0,20}(?:global[ _-]?)?rank[ _]?[:=#-]?[ ]?(?P<claim>\d{1,6})"
    r"(?:[^\w\n]{1,4}(?:pid|local_?rank|host|node|world_?size|on|at|of|stack\w*|py-?spy|dump|trace\w*)\b.{0,200})?[^\w\n]{0,80}"
)
_MARK = re.compile(
    r"^(?:(?:===|---) Rank (?P<rank>\d{1,9}): (?P<url>.{0,2000}?) (?:===|---)"
    r"|Process (?P<pid>\d{1,10}): (?P<command>.*)"
    r"|Parent Process (?P<parent>\d{1,10}): .*"
    rf"|(?i:{_CLAIM})"
    r"|==> (?P<file>.{1,1000}) <=="
    r"|[#=*]{1,20} ?(?:on |host(?:name)?[:= ] ?)?(?P<title>[\w.-]{1,255}) ?[#=*:]{0,20}"
    r"|(?P<ansible>[\w.-]{1,255}) \| (?:CHANGED|SUCCESS|FAILED) \| rc=\d{1,3} >>"
    r"|-{8,}\n(?P<hosts>[\w.,\[\]-]{1,255})(?: \(\d+\))?\n-{8,}"
    r"|(?P<again>Timeout \([\d:.]{1,30}\)!|Fatal Python error: .*)"
    rf"|(?P<thread>{stacktext.HEADING}|{pyspy.HEADING})"
    r"|Error: (?P<error>\d{3}|Failed to .*|.{0,40}?(?:[Pp]ermission|[Pp]ermitted|[Nn]o such process).*))$",
    re.MULTILINE,
)
_IDENT = re.compile(r"0x([0-9a-fA-F]+)|(\d+)")
_NAME = re.compile(r" \[(.*)\] \(most recent call first\):\Z")
_URL_HOST = re.compile(r"\w+://(\[[^\]/]*\]|[^:/]*)")
_LOCAL_RANK = re.compile(r"--local[-_]rank[= ](\d{1,6})\b")
_REFUSED = re.compile(r"(?:\d+: )?([Pp]ermission [Dd]enied[^\n:]{0,40})")
_FRAME = re.compile(stacktext.FRAME)
_COLOURS = re.compile(r"\x1b\[[\d;]{0,20}[mK]")


@dataclass(frozen=True, slots=True)
class Process:
    """One process in a text.

    Attributes:
        stacks: None if the text says why there are none.
        rank: from the text; None if it does not say.
        label: the host, pod or task named by its lines or the text around them; "" for none.
        pid: from the text.
        local_rank: from its command.
        aside: what it is, in words, if it cannot be a rank: "a launcher", "a child of process 7".
        reason: why there are no stacks.
    """

    stacks: Stacks | None
    rank: int | None = None
    label: str = ""
    pid: int | None = None
    local_rank: int | None = None
    aside: str = ""
    reason: str = ""


@dataclass(slots=True)
class _Part:
    """The part of a text that belongs to one process."""

    begin: int
    rank: int | None
    label: str
    pid: int | None = None
    command: str = ""
    parent: int | None = None
    idents: set[int] = field(default_factory=set)
    reason: str = ""
    end: int = -1


def read_processes(data: bytes, reader: StackReader) -> list[Process]:
    """Return the processes in a text or JSON, each once, with its last dump.

    Raises:
        ValueError: it holds no thread; the message says what is wrong.
    """
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    if pyspy.LIST.match(text):
        found = [Process(reader.shared(stacks), pid=pid) for pid, stacks in pyspy.processes_from_json(text).items()]
        return _without_helpers(found, {})
    if text.lstrip()[:1] == "{":
        return [Process(reader.read(data))]
    text = text.replace("\r\n", "\n") if "\r" in text else text
    text = _COLOURS.sub("", text) if "\x1b" in text else text
    found = []
    parents: dict[int, int] = {}
    for stream in streams_of(text):
        for part in _parts(stream):
            found.append(_process(stream, part, reader))
            if part.pid is not None and part.parent is not None:
                parents[part.pid] = part.parent
            if len(found) > MAX_PROCESSES:
                raise ValueError(f"more than {MAX_PROCESSES} processes")
    if not found:
        raise ValueError(_says(text))
    return _without_helpers(_newest(found), parents)


def _parts(stream: Stream) -> list[_Part]:
    return [part for part in _Cutting(stream).parts() if part.idents or part.reason]


class _Cutting:
    """Walks over the marks of one stream.

    Attributes:
        section: rank and label of the current part of the text.
        claimed: a rank that the text named for the next process.
    """

    def __init__(self, stream: Stream) -> None:
        self.text = stream.text
        self.section: tuple[int | None, str] = (stream.rank, stream.label)
        self.outer = stream.label
        self.claimed: int | None = None
        self.found: list[_Part] = []
        self.current: _Part | None = None
        self.last_heading: tuple[int, str] | None = None  # where the last thread's frames begin, and its heading

    def parts(self) -> list[_Part]:
        for mark in _MARK.finditer(self.text):
            self._take(mark)
        self._close(len(self.text))
        return self.found

    def _take(self, mark: re.Match[str]) -> None:
        kind = mark.lastgroup
        if kind == "url":
            host = _URL_HOST.match(mark["url"])
            self._enter(mark, (int(mark["rank"]), host[1] if host else ""))
            self._open(mark)
        elif kind == "file":
            self._enter(mark, (None, mark["file"]))
        elif kind in ("hosts", "ansible"):
            self._enter(mark, (None, mark[kind]))
        elif kind == "title" and _names_a_host(mark["title"]):
            self._enter(mark, (None, mark["title"]))
        elif kind == "command":
            self._open(mark, pid=int(mark["pid"]), command=mark["command"])
        elif kind == "parent" and self.current is not None:
            self.current.parent = int(mark["parent"])
        elif kind == "claim":
            self._claim(mark)
        elif kind == "again":
            self._close(mark.start())
        elif kind == "error":
            self._fail(mark)
        elif mark["thread"] is not None:
            self._thread(mark)

    def _enter(self, mark: re.Match[str], section: tuple[int | None, str]) -> None:
        self._close(mark.start())
        self.section = (section[0], " ".join(filter(None, (self.outer, section[1]))))
        self.claimed = None

    def _open(self, mark: re.Match[str], *, pid: int | None = None, command: str = "") -> _Part:
        self._close(mark.start())
        rank, label = self.section
        if rank is None:
            rank, self.claimed = self.claimed, None
        self.current = _Part(mark.start(), rank, label, pid, command)
        return self.current

    def _close(self, at: int) -> None:
        if self.current is not None:
            self.current.end = at
            self.found.append(self.current)
        self.current = self.last_heading = None

    def _claim(self, mark: re.Match[str]) -> None:
        if self.current is not None and not self.current.idents:
            self.current.rank = int(mark["claim"])
            return
        self._close(mark.start())
        self.claimed = int(mark["claim"])

    def _fail(self, mark: re.Match[str]) -> None:
        part = self.current
        if part is None or part.idents:
            part = self._open(mark)
        near = _REFUSED.search(self.text, mark.start(), mark.end() + 400)
        part.reason = near[1] if near else mark["error"]

    def _thread(self, mark: re.Match[str]) -> None:
        heading = mark["thread"]
        number = _IDENT.search(heading)
        assert number is not None
        ident = int(number[1], 16) if number[1] else int(number[2])
        part = self.current
        if part is None or ident in part.idents or (part.pid is None and self._main_is_past(mark.start())):
            part = self._open(mark)
        part.idents.add(ident)
        part.reason = ""
        self.last_heading = mark.end(), heading

    def _main_is_past(self, at: int) -> bool:
        """Whether the thread before this place is the main one, which faulthandler prints last."""
        if self.last_heading is None:
            return False
        begin, heading = self.last_heading
        if not heading.endswith("(most recent call first):"):
            return False
        if name := _NAME.search(heading):
            return name[1] == stacktext.MAIN_THREAD
        frames = [frame for line in self.text[begin:at].split("\n") if (frame := _FRAME.fullmatch(line))]
        return bool(frames) and frames[-1][3] in ("<module>", "_run_module_as_main")


def _names_a_host(title: str) -> bool:
    """Whether a heading that someone made up, such as `=== node3 ===`, may name a host."""
    return any(map(str.isalpha, title)) and ("." in title or any(map(str.isdigit, title)))


def _process(stream: Stream, part: _Part, reader: StackReader) -> Process:
    local = _LOCAL_RANK.search(part.command)
    about = Process(
        None,
        part.rank,
        part.label,
        part.pid if part.pid is not None else stream.pid,
        int(local[1]) if local else None,
        aside="an idle worker of Ray" if part.command.startswith("ray::IDLE") else "",
        reason=part.reason,
    )
    return about if part.reason else replace(about, stacks=reader.read_text(stream.text[part.begin : part.end]))


def _newest(processes: Iterable[Process]) -> list[Process]:
    """Return each process once, with its last dump; keep all processes that cannot be distinguished."""
    found: dict[object, Process] = {}
    for number, one in enumerate(processes):
        threads = frozenset(thread.ident for thread in one.stacks.threads) if one.stacks is not None else None
        key: object
        if one.rank is not None:
            key = ("rank", one.rank, None)
        elif one.pid is not None:
            key = ("pid", one.label, one.pid)
        else:
            key = ("threads", one.label, min(threads) if threads else number)
        before = found.get(key)
        if before is None or one.stacks is not None:
            found[key] = one
    return list(found.values())


def _without_helpers(processes: list[Process], parents: dict[int, int]) -> list[Process]:
    """Label each process that is not a rank: a launcher, a data loader worker, a child of a rank."""
    found = [
        replace(one, aside=one.aside or purpose_of(one.stacks)) if one.stacks is not None else one for one in processes
    ]
    ranks = {one.pid for one in found if one.pid is not None and not one.aside}
    return [
        replace(one, aside=f"a child of process {parent}")
        if one.pid is not None and not one.aside and (parent := parents.get(one.pid)) in ranks
        else one
        for one in found
    ]


def _says(text: str) -> str:
    """Return why a text holds no stacks; it may start with a tool's error, such as "py-spy: command not found"."""
    first = next((line.strip() for line in _lines(text) if line.strip()), "")
    if not first:
        return "it is empty"
    shown = first if len(first) <= 120 else f"{first[:119]}…"
    return f"it holds no thread's stack, but {shown!r}"


def _lines(text: str) -> Iterator[str]:
    yield from text[:100_000].split("\n")
