"""What the name of a stack file says: that it holds stacks, whose they are, when they were taken.

A rank is taken only from a name that says "rank". A number alone may be a process id, a node, or a time of day, so
``stacks_3.txt``, as an older `diagnose --save` wrote it, needs a ``stacks_0.txt`` beside it: no process has that id.
"""

from __future__ import annotations

import os
import re

_STACKS = r"(?:traceback|stacks?|stackdump|py-?spy|faulthandler)"
_TEXT = r"\.(?:txt|json|log|out|err|stacks?|dump)"
# traceback_rank_3.txt, stacks-node-6.txt, trace_pyspy_4011.out ...
_LOOSE = re.compile(rf"(?:.*[_.-])?{_STACKS}[_.-].*{_TEXT}|(?:.*[_.-])?{_STACKS}{_TEXT}", re.IGNORECASE)
_RANK = re.compile(r"(?<![a-z])(?<!local[_.-])(?<!node[_.-])(?<!group[_.-])rank[_.-]?(\d{1,9})(?!\d)", re.IGNORECASE)
_FORMER = re.compile(r"stacks_(\d{1,9})\.txt")
_TIME = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)[_T-]([0-2]\d)[-_:]?([0-5]\d)[-_:]?([0-6]\d)(?!\d)")
# Words in such names that do not name a host, with their separators.
_WORD = (
    rf"(?:{_STACKS}|dumps?|traces?|slurm|job|log|out|err|output|all|std(?:out|err)|pid|proc(?:ess)?|ps|hang|hung|stuck)"
)
_BEFORE = re.compile(rf"\A(?:{_WORD}(?:[_.-]+|\Z))+", re.IGNORECASE)
_AFTER = re.compile(rf"(?:(?:\A|[_.-]+){_WORD})+\Z", re.IGNORECASE)
_NUMBER = re.compile(r"[_.]\d+\Z")
_TIMES = re.compile(r"(?i)attempt|retry|run|step|snap|look|round|time|day|version|\A[tvj]?\d+\Z|\A20\d\d")


def says_stacks(path: str) -> bool:
    """Whether a name says that its file holds stacks."""
    return _LOOSE.fullmatch(os.path.basename(path)) is not None


def named_rank(path: str) -> int | None:
    """Return the rank in the name of a file or its folder (``rank_3/stderr.log``), or None."""
    folder, name = os.path.split(path)
    found = _RANK.findall(name)
    if found:
        return int(found[-1])
    if match := _RANK.fullmatch(os.path.basename(folder)):
        return int(match[1])
    match = _FORMER.fullmatch(name)
    if match is not None and os.path.exists(os.path.join(folder, "stacks_0.txt")):
        return int(match[1])
    return None


def named_time(path: str) -> str:
    """Return the time in a name (``stacks_20261126_110807.txt``) in a form that sorts, or "" if it has none."""
    match = _TIME.search(os.path.basename(path))
    return "" if match is None else "".join(match.groups())


def named_host(path: str, root: str, pid: int | None) -> str:
    """Return the host in the name of a file or of a folder between it and `root`, or "" if there is none.

    Args:
        pid: the pid of the file's process, not to be mistaken for a host's number.
    """
    stem = _TIME.sub("", os.path.splitext(os.path.basename(path))[0])
    if pid is not None:
        stem = re.sub(rf"(?<!\d){pid}(?!\d)", "", stem)
    stem = _AFTER.sub("", _BEFORE.sub("", _RANK.sub("", stem).strip("_.-"))).strip("_.-")
    while (match := _NUMBER.search(stem)) and _is_host(stem[: match.start()]):
        stem = stem[: match.start()]  # a task's or a process's
    if _is_host(stem):
        return stem
    folder = os.path.dirname(path)
    while len(folder) > len(root):
        name = os.path.basename(folder)
        if _is_host(name) and not _TIMES.search(name):
            return name
        folder = os.path.dirname(folder)
    return ""


def _is_host(text: str) -> bool:
    letters, digits = any(map(str.isalpha, text)), any(map(str.isdigit, text))
    return letters and digits and " " not in text and "rank" not in text.lower()
