"""What a user reads of torchctl, and the phrases of words.txt in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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


def product_strings() -> Iterator[tuple[str, str]]:
    """Yield where each string of the product is, and its text."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, text in literals(path.read_text()):
                if " " in text.strip():
                    yield f"{path.relative_to(ROOT)}:{line}", text


def documents() -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of README and guide, and where they are."""
    for path in (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "torchctl" / "guide").glob("*.md"))):
        for number, paragraph in enumerate(path.read_text().split("\n\n"), 1):
            yield f"{path.relative_to(ROOT)}, paragraph {number}", paragraph
