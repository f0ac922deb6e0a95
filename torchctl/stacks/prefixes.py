"""Strips the prefixes that launchers add to each line, and uses them to separate the processes.

How this works. A prefix is recognized only in front of a thread's or a process's heading, so that no word of the text
itself is mistaken for one. One layer is stripped at a time (a time, a host, a rank), and the lines with the same
prefix become a separate text, since pdsh mixes lines from many hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_MAX_LAYERS = 5
_MOST_BEFORE = 1024  # characters before a heading
# As in `protocol.stacktext` and `stacks.pyspy`, but anywhere in a line, so variable parts have bounded lengths.
_ANY_HEADING = re.compile(
    r"(?:Current thread|Thread) 0x[0-9a-fA-F]{1,16}(?: \[.{0,200}\])? \(most recent call first\):$"
    r'|Thread (?:0x[0-9a-fA-F]{1,16}|\d{1,20}) \([a-z+]{1,40}\)(?:: ".{0,200}")?[ \t]{0,8}$'
    r"|Process \d{1,10}: ",
    re.MULTILINE,
)
_TIME = r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?"
# One layer: `node3:` (pdsh and clush), ` 3:` (`srun --label`), `[rank3]:` (torchrun), `[1,3]<stdout>:` (mpirun),
# `(train pid=17, ip=10.0.0.3)` (Ray), `trainer-0  |` (compose), `[pod/trainer-0/main]` (kubectl), or a time.
_LAYER = re.compile(
    rf"(?P<time>{_TIME})|[\w.-]{{1,255}}:| {{1,6}}\d{{1,6}}:|\[[^\]\n]{{1,255}}\](?:<\w{{1,10}}>)?:?"
    r"|\([^()\n]{1,255}\)|[\w.-]{1,255} +\|"
)
_RANK = re.compile(r"\[(?:global[ _-]?)?rank[ _:=-]?(\d{1,6})\]:?", re.IGNORECASE)
_RAY = re.compile(r"\(.*\bpid=(\d{1,10})(?:, ip=([\w.:-]+))?.*\)")


class Stream(NamedTuple):
    """The lines of a text that have the same prefix, without that prefix.

    Attributes:
        label: the host, pod or task that the prefix names; "" if none.
        rank, pid: from the prefix, if it has them.
    """

    text: str
    label: str = ""
    rank: int | None = None
    pid: int | None = None


def streams_of(text: str) -> list[Stream]:
    """Return the streams in a text, in the order in which they begin; just the text itself if it has no prefixes."""
    return list(_streams(Stream(text), _MAX_LAYERS))


def _streams(stream: Stream, layers: int) -> Iterator[Stream]:
    known = _layers_in(stream.text) if layers else {}
    if not known:
        yield stream
        return
    parts: dict[str, list[str]] = {}
    for line in stream.text.split("\n"):
        match = _LAYER.match(line)
        key = "" if match is None else _key(match)
        if match is None or key not in known:
            parts.setdefault("", []).append(line)
            continue
        rest = line[match.end() :]
        blanks = min(known[key], len(rest) - len(rest.lstrip(" ")))
        parts.setdefault(key, []).append(rest[blanks:])
    for key, lines in parts.items():
        yield from _streams(_named(stream, key, "\n".join(lines)), layers - 1 if key else 0)


def _layers_in(text: str) -> dict[str, int]:
    """Return the first layer of each prefix found before a heading, and how many blanks follow it."""
    found: dict[str, int] = {}
    for heading in _ANY_HEADING.finditer(text):
        begin = text.rfind("\n", max(0, heading.start() - _MOST_BEFORE), heading.start()) + 1
        if begin == heading.start() or (not begin and heading.start() > _MOST_BEFORE):
            continue
        prefix = text[begin : heading.start()]
        match = _LAYER.match(prefix)
        if match is not None and match.end() > 0 and _is_prefix(prefix):
            rest = prefix[match.end() :]
            found.setdefault(_key(match), len(rest) - len(rest.lstrip(" ")))
    return found


def _is_prefix(text: str) -> bool:
    """Whether a text consists entirely of layers."""
    at = 0
    for _ in range(_MAX_LAYERS):
        match = _LAYER.match(text, at)
        if match is None or match.end() == at:
            return False
        at = match.end()
        while text[at : at + 1] == " ":
            at += 1
        if at == len(text):
            return True
    return False


def _key(match: re.Match[str]) -> str:
    return "time" if match["time"] is not None else match[0]


def _named(stream: Stream, key: str, text: str) -> Stream:
    """Return the stream of one layer's lines, with what that layer adds to what the outer stream says."""
    if key in ("", "time"):
        return stream._replace(text=text)
    if match := _RANK.fullmatch(key):
        return stream._replace(text=text, rank=int(match[1]))
    if match := _RAY.fullmatch(key):
        return stream._replace(text=text, pid=int(match[1]), label=match[2] or stream.label)
    label = key.rstrip(":| ").partition("]<")[0].strip("[]()")
    label = f"task {label.strip()}" if label.strip().isdigit() else label
    return stream._replace(text=text, label=label if not stream.label else f"{stream.label} {label}")
