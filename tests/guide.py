"""The README and the pages of the guide, and what they quote: commands, screens, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "torchctl" / "guide"
README = ROOT / "README.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (README, *sorted(GUIDE.glob("*.md")))
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\$ )?(torchctl [^#|]*[^#| ])(?:\s+[#|].*)?")
# What differs from run to run, and from machine to machine: pattern -> what both sides become.
_VARYING = {
    r"(?:/\S*/)?((?:train|odd)\.py)": r"\1",
    r"(?:/\S*/)?(torchctl/server/__main__\.py):\d+": r"\1",
    r"\b((?:queue|threading|distributed_c10d)\.py):\d+": r"\1",
    r"/\S*/(rank\d+)-\d+\.sock": r"\1.sock",
    r"\b(rank\d+)-\d+\.sock": r"\1.sock",
    r"sockets in \S+": "sockets in a folder",
    r"\bpid +\d+": "pid",
    r"(?m)^( *\d+) +\S+ +\d+ +[\w-]+…": r"\1 host pid job",  # a row of `ps`
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\b\d\d:\d\d:\d\d(?:\.\d{3}\b)?": "then",
    r"host \S+,": "host,",
    r"\b[\d.]+ ?m?s\b": "while",
    r"\bjob [\w-]+": "job",
    r"0x[0-9a-f]+": "address",
    r"sleep(ing|) in \w+": r"sleep\1",  # if the kernel says so
    r"\bup +\S+": "up while",
    r"\bprocess \d+": "process",
    r"\b\d+ MiB": "MiB",
    r" +": " ",
}


def fences(page: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of every code block."""
    for match in _FENCE.finditer(page):
        yield match[1], match[2]


def shown(page: str) -> set[str]:
    """Return the torchctl commands in a page's blocks: whole ones, to be copied."""
    found: set[str] = set()
    for _, block in fences(page):
        matches = [_COMMAND.fullmatch(line.strip()) for line in block.splitlines()]
        found.update(match[1] for match in matches if match)
        found.update(re.findall(r"\$\((torchctl [^)]+)\)", block))
    return found


def named(page: str) -> set[str]:
    """Return the torchctl commands in a page's sentences, which may lack what they always need."""
    return set(re.findall(r"`(torchctl [^`]+)`", _FENCE.sub("", page)))


def words(command: str) -> list[str]:
    """Return the words of a command as a shell would pass them on, without the program's own name."""
    return shlex.split(command)[1:]


def screen(page: str, command: str) -> str:
    """Return what a page says that a command prints."""
    for _, block in fences(page):
        start = f"$ {command}\n"
        if start in block:
            return block.partition(start)[2].partition("\n$ ")[0].strip("\n")
    raise AssertionError(f"no screen of `{command}`")


def likened(text: str) -> list[str]:
    """Return a screen's lines without what differs from run to run."""
    for pattern, instead in _VARYING.items():
        text = re.sub(pattern, instead, text)
    return [line.rstrip() for line in text.strip("\n").splitlines()]
