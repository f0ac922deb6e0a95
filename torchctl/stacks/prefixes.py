"""What launchers put in front of each line of several processes: it distinguishes them, and is taken off.

How this works. A prefix is known by a line that is a thread's or a process's heading but for what stands before it, so
that no word of the text itself is taken for one. One layer is taken off at a time (a time, a host, a rank), and the
lines of each go on as a text of their own: pdsh mixes those of many hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_MAX_LAYERS = 5
_MOST_BEFORE = 1024  # characters before a heading
# As in `protocol.stacktext` and `stacks.pyspy`, at any place of a line: what may be long is bounded.
_ANY_HEADING = re.compile(
    r"(?:Current thread|Thread) 0x[0-9a-fA-F]{1,16}(?: \[.{0,200}\])? \(most recent call first\):$"
    r'|Thread (?:0x[0-9a-fA-F]{1,16}|\d{1,20}) \([a-z+]{1,40}\)(?:: ".{0,200}")?[ \t]{0,8}$'
    r"|Process \d{1,10}: ",
    re.MULTILINE,
)
_TIME = r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?"
# One layer: `node3:` of pdsh and clush, ` 3:` of `srun --label`, `[rank3]:` of torchrun, `[1,3]<stdout>:` of mpirun,
# `(train pid=17, ip=10.0.0.3)` of Ray, `trainer-0  |` of compose, `[pod/trainer-0/main]` of kubectl, and a time.
_LAYER = re.compile(
    rf"(?P<time>{_TIME})|[\w.-]{{1,255}}:| {{1,6}}\d{{1,6}}:|\[[^\]\n]{{1,255}}\](?:<\w{{1,10}}>)?:?"
    r"|\([^()\n]{1,255}\)|[\w.-]{1,255} +\|"
)
_RANK = re.compile(r"\[(?:global[ _-]?)?rank[ _:=-]?(\d{1,6})\]:?", re.IGNORECASE)
_RAY = re.compile(r"\(.*\bpid=(\d{1,10})(?:, ip=([\w.:-]+))?.*\)")


class Stream(NamedTuple):
    """The lines of one text that begin alike, without that beginning.

    Attributes:
        label: what the beginning names: a host, a pod, a task; "" if there was none.
        rank, pid: where the beginning says so.
    """

    text: str
    label: str = ""
    rank: int | None = None
    pid: int | None = None


def streams_of(text: str) -> list[Stream]:
    """Return the streams in a text, in the order in which they begin; the text itself where nothing is prefixed."""
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
    """Return the first layer of each prefix that headings have, and how many blanks follow it."""
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
    """Whether a text is made of layers from end to end."""
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
    """Return a stream's lines of one layer, under what that layer says besides what is known already."""
    if key in ("", "time"):
        return stream._replace(text=text)
    if match := _RANK.fullmatch(key):
        return stream._replace(text=text, rank=int(match[1]))
    if match := _RAY.fullmatch(key):
        return stream._replace(text=text, pid=int(match[1]), label=match[2] or stream.label)
    label = key.rstrip(":| ").partition("]<")[0].strip("[]()")
    label = f"task {label.strip()}" if label.strip().isdigit() else label
    return stream._replace(text=text, label=label if not stream.label else f"{stream.label} {label}")
