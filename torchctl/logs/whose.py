"""Whose a line of a log is: what launchers, shells and torch itself put before it, and what a file's path says.

How this works. A prefix that only one program writes is taken wherever it occurs at the start of a line; "3: " of
`srun --label` and "node3: " of pdsh only if nearly all lines of the file have it, since a text may begin like that,
too. Several prefixes are taken off one after the other; the innermost that states a rank counts most. `[default3]:` of
torchrun and the folders of its `--log-dir` count the ranks of one node, so they state a local rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torchctl.logs.moment import STAMP, Moment, moment_of
from torchctl.logs.said import Speaker

_MAX_LAYERS = 6
_MOSTLY = 0.6  # of the lines that are not empty: srun and torchrun add lines of their own
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]{0,20}[A-Za-z]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>])")
_LAYER = re.compile(
    rf"\s{{0,8}}(?:(?P<stamp>{STAMP})(?= )"
    r"|\[(?:global[ _-]?)?[Rr]ank[ _:=-]?(?P<rank>\d{1,6})\](?::|(?= ))"
    r"|\[(?:pod/)(?P<pod>[\w.-]{1,253})/[\w.-]{1,253}\]"
    r"|\[\d{1,4},(?P<mpi>\d{1,6})\](?:<\w{1,10}>)?:?"
    r"|\[(?P<role>[A-Za-z_]{1,40})(?P<local>\d{1,4})\]:"
    r"|\((?P<actor>[^()\n]{0,200}?)\b(?:pid|PID)=(?P<pid>\d{1,10})(?:, ip=(?P<ip>[\w.:-]{1,64}))?[^()\n]{0,64}\)"
    r"|(?P<service>[\w.-]{1,100}) {1,40}\|)[ \t]?"
)
_LABEL = re.compile(r" {0,6}(\d{1,6}): ?")
_HOST = re.compile(r"([A-Za-z][\w.-]{0,252}\d[\w.-]{0,64}): ?")
_TORN = re.compile(r"\[rank(\d{1,6})\]:")
# attempt_1/3/stderr.log of torchrun; 3.log of some clusters says nothing.
_ATTEMPT = re.compile(
    r"(?:\A|/)(?P<run>[^/]{0,255}/)?attempt_(?P<attempt>\d{1,4})/(?P<local>\d{1,4})/(?:std(?:out|err)|error)[^/]{0,20}\Z"
)
_TASK = re.compile(r"(?i)(?<![a-z])(?:task|proc(?:id)?)[_.-]?(\d{1,6})(?!\d)")


@dataclass(frozen=True, slots=True)
class Tree:
    """What a path of torchrun's `--log-dir` says; `run` is the folder above the attempts."""

    run: str
    attempt: int
    local_rank: int


def tree_of(path: str) -> Tree | None:
    match = _ATTEMPT.search(path)
    if match is None:
        return None
    return Tree(path[: match.start("attempt") - len("attempt_")], int(match["attempt"]), int(match["local"]))


def task_of(name: str) -> int | None:
    """Return the task in a file's name that says "task" (Slurm's %t); None if it does not."""
    found = _TASK.findall(name)
    return int(found[-1]) if found else None


def clean(line: str) -> str:
    """Return a line as a terminal would show its end: without colours, and what follows the last carriage return."""
    line = line.rstrip("\r\n")
    if "\r" in line:
        line = line[line.rindex("\r") + 1 :]
    return _ANSI.sub("", line) if "\x1b" in line else line


@dataclass(frozen=True, slots=True)
class Habits:
    """Which prefixes the lines of a file have that only count if nearly all have them."""

    labels: bool = False
    hosts: bool = False


def habits_of(beginning: str) -> Habits:
    """Return the habits of a file from its first lines."""
    lines = [clean(line) for line in beginning.split("\n")]
    lines = [line for line in lines if line.strip()]
    if len(lines) < 3:
        return Habits()
    labels = [match[1] for line in lines if (match := _LABEL.match(line))]
    hosts = [match[1] for line in lines if (match := _HOST.match(line))]
    enough = _MOSTLY * len(lines)
    return Habits(len(labels) >= enough, len(hosts) >= enough and len(set(hosts)) <= max(1, len(hosts) // 2))


def said_by(line: str, source: Speaker, habits: Habits) -> tuple[Speaker, str, Moment | None]:
    """Return who says a line, what is left of it without prefixes, and when, if a prefix says so.

    Args:
        line: cleaned.
        source: what the file itself says.
    """
    who, at, when = source, 0, None
    for _ in range(_MAX_LAYERS):
        match = _LAYER.match(line, at)
        if match is not None and match.end() > at:
            if match["stamp"] is not None:
                when = moment_of(match["stamp"]) or when
            else:
                who = _with(who, match)
        elif habits.labels and (match := _LABEL.match(line, at)) and who.task is None:
            who = replace(who, task=int(match[1]), label=f"task {match[1]}")
        elif habits.hosts and (match := _HOST.match(line, at)) and not who.host:
            who = replace(who, host=match[1])
        else:
            break
        at = match.end()
    return who, line[at:], when


def torn_rank(before: str) -> int | None:
    """Return the rank of the last prefix in the middle of a line that several processes wrote at once."""
    found = _TORN.findall(before)
    return int(found[-1]) if found else None


def _with(who: Speaker, match: re.Match[str]) -> Speaker:
    if match["rank"] or match["mpi"]:
        return replace(who, rank=int(match["rank"] or match["mpi"]))
    if match["local"]:
        return replace(who, local_rank=int(match["local"]), label=f"{match['role']}{match['local']}")
    if match["pod"]:
        return replace(who, host=match["pod"])
    if match["pid"]:
        named = match["actor"].strip(" ,") or "process"
        return replace(who, pid=int(match["pid"]), host=match["ip"] or who.host, label=f"{named} pid {match['pid']}")
    return replace(who, label=match["service"])
