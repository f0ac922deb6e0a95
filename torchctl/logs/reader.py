"""Read one log, as bytes that come piece by piece, in constant memory.

How this works. `Scan` finds the places that may matter; the line around each is cleaned of colours and prefixes and
looked up in the table. Once a traceback has begun, the lines that follow are read one by one, each given to the
traceback of the same speaker, until all that have begun are complete.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torchctl.logs.moment import Moment, moment_of
from torchctl.logs.pattern import Pattern
from torchctl.logs.patterns import WORDS, meaning_of
from torchctl.logs.python import TRACEBACK
from torchctl.logs.said import Ended, Event, Line, Log, Raised, Speaker
from torchctl.logs.scan import Scan
from torchctl.logs.signals import code_of
from torchctl.logs.traceback import Traceback
from torchctl.logs.whose import Habits, clean, habits_of, said_by, torn_rank
from torchctl.ranks import parse_ranks

MAX_LINE = 4000
_MAX_PENDING = 1 << 20  # bytes without the end of a line
_SAMPLE = 1 << 16
_MAX_ALIKE = 32  # events of one kind and speaker that are kept
_MAX_KEPT = 20_000  # of each, in one log
_LOOK_BACK, _LINES_BACK = 8192, 40
_MOST_OPEN = 300  # lines after which a traceback that gets none of its own is given up
_RANKS = re.compile(rb"\[[Rr]ank(\d{1,6})\]")
_SELF = re.compile(r"\[(?:PG [^\]\n]{0,300} )?Rank (\d{1,6})\]")
_ABOVE = re.compile(r"time {1,10}: (\S{1,40})|host {1,10}: (\S{1,255})")
# Above the traceback of an exception of which no process ends.
_ASIDE = re.compile(r"Exception (?:ignored in|in thread )|--- Logging error ---|Task exception was never retrieved")
_SCAN = Scan(WORDS)


class LogReader:
    """Reads one log; `log` is complete after `finish`."""

    def __init__(self, file: Speaker) -> None:
        self.log = Log(file)
        self._rest = b""
        self._habits: Habits | None = None
        self._number = 0  # complete lines before `_counted`
        self._counted = 0  # where in the piece being read
        self._data = b""
        self._understood = 0
        self._alike: dict[tuple[str, Speaker], int] = {}
        self._open: dict[Speaker, Traceback] = {}
        self._idle = 0
        self._last: dict[Speaker, Raised] = {}
        self._chained: set[Speaker] = set()
        self._elastic: dict[Speaker, tuple[Speaker, Line, bool]] = {}
        self._root: set[Speaker] = set()
        self._when: dict[Speaker, Moment] = {}
        self._marks: list[tuple[Raised, int, int]] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the log."""
        if self._habits is None:
            sample = (self._rest + data)[:_SAMPLE]
            if len(sample) < _SAMPLE and data:
                self._rest += data
                return
            self._begin(sample)
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        if not cut:
            if len(data) < _MAX_PENDING:
                self._rest = data
                return
            cut = len(data)
        self._rest = data[cut:]
        self._take(data[:cut])

    def finish(self) -> Log:
        """Take the log as complete."""
        if self._habits is None:
            self._begin(self._rest[:_SAMPLE])
        data, self._rest = self._rest, b""
        if data:
            self._take(data)
            self.log.lines += not data.endswith(b"\n")
        for raised, line, understood in self._marks:
            raised.after = (self.log.lines - line) - (self._understood - understood)
        self._marks.clear()
        return self.log

    def _begin(self, sample: bytes) -> None:
        text = sample.decode("utf-8", "replace")
        self._habits = habits_of(text)
        for line in text.split("\n")[:2000]:
            who, _, _ = said_by(clean(line[:MAX_LINE]), self.log.file, self._habits)
            if who is not self.log.file:
                self.log.speakers.add(who)

    def _take(self, data: bytes) -> None:
        self._data, self._counted = data, 0
        self.log.ranks.update(map(int, set(_RANKS.findall(data)))) if b"[rank" in data or b"[Rank" in data else None
        at = self._follow(0) if self._open else 0
        for place in _SCAN.places(data):
            if place < at:
                continue
            start, end = self._around(place, at)
            self._line(start, end)
            at = end
            if self._open:
                at = self._follow(data.find(b"\n", end) + 1 or len(data))
        self._note_last(data)
        self._number += data.count(b"\n", self._counted)
        self.log.lines = self._number

    def _around(self, place: int, at: int) -> tuple[int, int]:
        """Return where the line around a place begins and ends, within reach and between carriage returns."""
        data = self._data
        begin = max(data.rfind(b"\n", at, place) + 1, at, place - MAX_LINE)
        begin = max(begin, data.rfind(b"\r", begin, place) + 1)
        end = data.find(b"\n", place, place + 2 * MAX_LINE)
        end = min(len(data), place + 2 * MAX_LINE) if end < 0 else end
        back = data.find(b"\r", place, end)
        return begin, end if back < 0 else back

    def _line_number(self, start: int) -> int:
        self._number += self._data.count(b"\n", self._counted, start)
        self._counted = start
        return self._number + 1

    def _follow(self, at: int) -> int:
        """Read line by line until no traceback is open; return where to go on."""
        data = self._data
        while self._open and at < len(data):
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            self._line(at, min(end, at + 2 * MAX_LINE))
            self._idle += 1
            if self._idle > _MOST_OPEN:
                self._open.clear()
            at = end + 1
        return min(at, len(data))

    def _line(self, start: int, end: int) -> None:
        text = clean(self._data[start:end].decode("utf-8", "replace"))[:MAX_LINE]
        if not (self._open or any(word in text for word in WORDS)):
            return
        habits = self._habits or Habits()
        who, body, when = said_by(text, self.log.file, habits)
        if self._open:
            traceback = self._open.get(who)
            if traceback is not None:
                when = when or self._when.get(who)
                line = Line(self.log.file.source, self._line_number(start), body, when)
                outcome = traceback.take(body, line)
                if outcome == "ended":
                    del self._open[who]
                    self._raised(traceback, line)
                elif traceback.torn:
                    del self._open[who]
                if outcome != "strange":
                    self._idle = 0
                    self._understood += 1
                    return
        known = meaning_of(body)
        when = when or moment_of(body)
        if when is not None:
            self._when[who] = when
        if known is None:
            return
        pattern, match = known
        if who.rank is None:
            before = body[: match.start()]
            self_said = _SELF.search(body)
            rank = torn_rank(before) if pattern.name != TRACEBACK else None
            rank = rank if rank is not None or self_said is None else int(self_said[1])
            who = who if rank is None else replace(who, rank=rank)
        when = when or self._when.get(who) or self._time_before(start)
        line = Line(self.log.file.source, self._line_number(start), body, when)
        self._understood += 1
        self._known(pattern, match, who, line, start)

    def _known(self, pattern: Pattern, match: re.Match[str], who: Speaker, line: Line, start: int) -> None:
        about = match.groupdict("")
        if pattern.name == TRACEBACK:
            self._idle = 0
            indent = 2 if line.text.lstrip().startswith("traceback : ") else 0
            whose = self._elastic[who][0] if indent and who in self._elastic else who
            hook = re.match(r"\s*\[rank\d{1,6}\]:", self._raw(start)) is not None
            aside = _ASIDE.search(self._above(start)) is not None
            self._open[who] = Traceback(whose, line, indent, hook, bool(about.get("original")), aside)
        elif pattern.name == "chained":
            self._chained.add(who)
        elif pattern.name == "elastic_summary":
            self._root.add(who)
        elif pattern.name == "elastic_rank":
            self._elastic_rank(who, line, about, start)
        elif pattern.name == "elastic_exit":
            whose, above, root = self._elastic.get(who, (who, line, False))
            shown = replace(line, when=above.when)
            self.log.ended.append(Ended(whose, shown, int(about["code"]), int(about["pid"]), root))
        elif pattern.role == "ended":
            self._ended(pattern, who, line, about)
        else:
            self._event(pattern, who, line, about)

    def _time_before(self, start: int) -> Moment | None:
        """Return the time of the nearest line above that has one: what is written to one file is in order of time."""
        above = self._data[max(0, start - _LOOK_BACK) : start].decode("utf-8", "replace")
        for line in reversed(above.split("\n")[-_LINES_BACK:]):
            if when := moment_of(clean(line)):
                return when
        return None

    def _above(self, start: int) -> str:
        """Return the line above."""
        return self._data[self._data.rfind(b"\n", 0, max(0, start - 1)) + 1 : start][:MAX_LINE].decode(
            "utf-8", "replace"
        )

    def _raw(self, start: int) -> str:
        return clean(self._data[start : start + 100].decode("utf-8", "replace"))

    def _elastic_rank(self, who: Speaker, line: Line, about: dict[str, str], start: int) -> None:
        """Remember whom torchrun's summary is about: the lines above say when and on which host."""
        when, host = line.when, who.host
        for stamp, name in _ABOVE.findall(self._data[max(0, start - 600) : start].decode("utf-8", "replace")):
            when, host = (moment_of(stamp) or when) if stamp else when, name or host
        whose = Speaker(who.source, int(about["about"]), int(about["local"]), host=host)
        self._elastic[who] = (whose, replace(line, when=when), who in self._root)
        self._root.discard(who)

    def _ended(self, pattern: Pattern, who: Speaker, line: Line, about: dict[str, str]) -> None:
        if about.get("number"):
            about["code"] = f"-{about['number']}"
        if about.get("about"):
            who = replace(who, rank=int(about["about"]))
        code = code_of(about.get("code", ""), about.get("signal", "") or about.get("alone", ""))
        pid = int(about["pid"]) if about.get("pid") else None
        if about.get("local"):
            who = replace(who, local_rank=int(about["local"]), rank=None)
        host = about.get("host") or who.host
        tasks: list[int | None] = list(parse_ranks(about["tasks"])) if about.get("tasks") else [who.task]
        for task in tasks[:4096]:
            self.log.ended.append(Ended(replace(who, task=task, host=host), line, code, pid))

    def _event(self, pattern: Pattern, who: Speaker, line: Line, about: dict[str, str]) -> None:
        if about.get("rank"):
            who = replace(who, rank=int(about["rank"]))
        if about.get("tasks"):
            for task in parse_ranks(about["tasks"])[:_MAX_ALIKE]:
                whose = replace(who, task=task, host=about.get("host") or who.host)
                self.log.events.append(Event(pattern, whose, line, about, pattern.fatal))
            return
        key = pattern.name, who
        self._alike[key] = self._alike.get(key, 0) + 1
        if self._alike[key] <= _MAX_ALIKE and len(self.log.events) < _MAX_KEPT:
            fatal = pattern.fatal or line.text.startswith("  what():")
            self.log.events.append(Event(pattern, who, line, about, fatal))

    def _raised(self, traceback: Traceback, line: Line) -> None:
        made, who = traceback.raised, traceback.who
        if made is None:
            return
        previous = self._last.get(who)
        if traceback.original and previous is not None and line.number - previous.line.number < 400:
            previous.inner = made
        else:
            if who in self._chained and previous is not None and previous in self.log.raised:
                made.before = previous
                self.log.raised.remove(previous)
            if len(self.log.raised) >= _MAX_KEPT:
                del self.log.raised[_MAX_KEPT // 2]
            self.log.raised.append(made)
            self._last[who] = made
        self._chained.discard(who)
        self._marks = [mark for mark in self._marks if mark[0] is not previous or traceback.original]
        marked = previous if traceback.original and previous is not None else made
        self._marks = [mark for mark in self._marks if mark[0] is not marked]
        self._marks.append((marked, line.number, self._understood + 1))

    def _note_last(self, data: bytes) -> None:
        stripped = data[-MAX_LINE:].rstrip()
        if stripped:
            text = clean(stripped[stripped.rfind(b"\n") + 1 :].decode("utf-8", "replace"))
            number = self._number + data.count(b"\n", self._counted, len(data) - len(data[-MAX_LINE:]) + len(stripped))
            self.log.last = Line(self.log.file.source, number + 1, text, moment_of(text))
