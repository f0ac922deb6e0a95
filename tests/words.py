"""What a user reads of torchctl, and the phrases of words.txt in it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("torchctl", "server", "storeutil")
_LIST = ROOT / "tests" / "words.txt"


def phrases(text: str | None = None) -> dict[str, str]:
    """Return each phrase that we do not use, with what we say instead.

    Raises:
        ValueError: a line of the list is not `phrase -> instead`, or a phrase is there twice.
    """
    listed: dict[str, str] = {}
    for line in (_LIST.read_text() if text is None else text).splitlines():
        if not line or line.startswith("#"):
            continue
        phrase, arrow, instead = (part.strip() for part in line.partition("->"))
        if not (phrase and arrow and instead) or phrase in listed:
            raise ValueError(f"not `phrase -> instead`, or twice: {line!r}")
        listed[phrase] = instead
    return listed


def found_in(text: str, listed: dict[str, str]) -> list[str]:
    """Return the phrases that a text contains as whole words, in any case and across line ends."""
    flat = " ".join(text.split())
    return [phrase for phrase in listed if re.search(rf"(?<![\w'-]){re.escape(phrase)}(?![\w'-])", flat, re.IGNORECASE)]


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string in Python code but docstrings; `{}` for what an f-string fills in."""
    tree = ast.parse(source)
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring and of each comment, whose lines below one another are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    begun, last, text = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != last + 1 and text:
                yield begun, text
            begun, text = (begun, f"{text} ") if line == last + 1 else (line, "")
            text, last = text + token.string.lstrip("# "), line
    if text:
        yield begun, text


def of_product(read: Callable[[str], Iterable[tuple[int, str]]]) -> Iterator[tuple[str, str]]:
    """Yield what `literals` or `prose` find in the product's code, and where it is."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, text in read(path.read_text()):
                if " " in text.strip():
                    yield f"{path.relative_to(ROOT)}:{line}", text


def documents() -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of README, SECURITY, CHANGELOG and guide, and where they are."""
    for path in (
        *(ROOT / f"{name}.md" for name in ("README", "SECURITY", "CHANGELOG")),
        *sorted((ROOT / "torchctl" / "guide").glob("*.md")),
    ):
        for number, paragraph in enumerate(path.read_text().split("\n\n"), 1):
            yield f"{path.relative_to(ROOT)}, paragraph {number}", paragraph
