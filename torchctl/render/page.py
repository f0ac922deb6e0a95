"""Render a page of the guide for a terminal."""

from __future__ import annotations

import io
import re
import sys
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

_WIDEST = 110  # columns; longer lines are hard to read, however wide the window is
_UNBOUNDED = 10_000  # columns; used to measure the natural width of a table
_INDENT = 4  # columns before a code block, and before the continuation of a wrapped line in it
_COMMAND = re.compile(r"\$ |(?:torchctl|torchrun|python|curl) ")
_WORD = re.compile(r" *[^ ]+")
# A shell word, with the option before it.
_ARGUMENT = re.compile(r" *(?:--[\w-]+ (?=[^-]))?(?:'[^']*'|\"[^\"]*\"|[^ '\"])+")
_THEME = Theme({"markdown.code": "bold", "markdown.table.border": "dim", "markdown.item.number": "none"})
_LINK = re.compile(r"\[([^\]]+)\]\([a-z-]+\.md\)")  # a link to another page, which a terminal cannot follow


class _Heading(Heading):
    """A heading at the left edge; rich would center it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = self.text.copy()
        title.stylize("bold underline" if self.tag == "h1" else "bold")
        if self.tag != "h1":
            yield Text("")
        yield title


class _CodeBlock(CodeBlock):
    """Commands and what they print, indented, in the terminal's own colors."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - _INDENT
        lines = [part for line in str(self.text).rstrip().split("\n") for part in fitted(line, width)]
        shown = Text("\n".join(lines), overflow="fold")
        shown.highlight_regex(r"(?m)^\$ .+$", "bold")
        yield Padding(shown, (0, 0, 0, _INDENT))


def fitted(line: str, width: int) -> list[str]:
    """Wrap a line of a code block between words; a command gets backslashes, so that it can still be copied."""
    if len(line) <= width:
        return [line]
    command = _COMMAND.match(line) is not None and " #" not in line
    end = " \\" if command else ""
    indent = " " * (len(line) - len(line.lstrip(" ")) + _INDENT)
    parts = [""]
    for word in (_ARGUMENT if command else _WORD).findall(line):
        if len(parts[-1] + word + end) > width and parts[-1].strip():
            parts[-1] += end
            parts.append(indent + word.lstrip(" "))
        else:
            parts[-1] += word
    return parts


class _Table(TableElement):
    """A table, with an empty line between rows if any row takes several lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            whole = console.measure(table, options=options.update(max_width=_UNBOUNDED)).maximum
            table.leading = int(whole > options.max_width)
            yield table


class _Page(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "table_open": _Table,
    }


def rendered(markdown: str) -> tuple[str, bool]:
    """Return a page in this terminal's width and colors, and whether it fits on one screen."""
    terminal = Console(file=sys.stdout)
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard" if terminal.color_system else None,
        no_color=terminal.no_color,
        width=min(terminal.width, _WIDEST),
        theme=_THEME,
    )
    with console.capture() as capture:
        console.print(_Page(_LINK.sub(r"\1", markdown), hyperlinks=False))
    lines = [line.rstrip() for line in capture.get().strip("\n").split("\n")]
    return "\n".join(lines) + "\n", len(lines) < terminal.height
