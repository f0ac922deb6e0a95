"""`torchctl help`: the pages of the guide, which are part of the package and need no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from torchctl.cli import COMMANDS

_FOLDER = Path(__file__).parents[1] / "guide"
# The contents page, which is also shown when browsing the folder, lists the topics: `- [topic](topic.md): summary`.
_CONTENTS = _FOLDER / "README.md"
_TOPIC = re.compile(r"^- \[(?P<topic>[a-z-]+)\]\((?P=topic)\.md\): (?P<summary>.+)$", re.MULTILINE)


def topics() -> dict[str, str]:
    """Return the guide's topics in the order of its contents page, each with its one-line summary."""
    contents = _CONTENTS.read_text(encoding="utf-8")
    return {match["topic"]: match["summary"] for match in _TOPIC.finditer(contents)}


def page(topic: str) -> str:
    """Return the Markdown for one topic."""
    return (_FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    if ctx.params.get("words"):  # after the first word, only a group's commands could follow
        return []
    named = topics() | {name: "the command's options" for name in COMMANDS if name not in topics()}
    return [CompletionItem(name, help=summary) for name, summary in named.items() if name.startswith(incomplete)]


@click.command()
@click.argument("words", nargs=-1, metavar="[TOPIC|COMMAND]", shell_complete=_complete)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Read the guide: one page per topic. Without a topic, list them.

    The guide is part of the package and needs no network. On a terminal it opens in $PAGER; in a pipe you get
    the Markdown itself. The name of a command without a page of its own shows that command's --help.
    """
    if not words:
        _list_topics()
    elif len(words) == 1 and words[0] in topics():
        _show(page(words[0]))
    else:
        _show_help_of(ctx, words)


def _list_topics() -> None:
    listed = topics()
    width = max(map(len, listed))
    click.echo("Topics, each a page: torchctl help TOPIC\n")
    for topic, summary in listed.items():
        click.echo(f"  {topic:{width}}  {summary}")
    click.echo("\nThe options of a command: torchctl COMMAND --help")


def _show(markdown: str) -> None:
    """Print a page: on a terminal rendered, and in a pager if it is longer than the screen; elsewhere unchanged."""
    if not sys.stdout.isatty():
        click.echo(markdown, nl=False)
        return
    from torchctl.render.page import rendered

    text, fits = rendered(markdown)
    if fits:
        click.echo(text, nl=False)
    else:
        click.echo_via_pager(text)


def _show_help_of(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Print the --help of a command or subcommand (such as `store get`), and the page that says more."""
    assert ctx.parent is not None
    above, found = ctx.parent, ctx.parent.command
    for word in words:
        inner = found.get_command(above, word) if isinstance(found, click.Group) else None
        if inner is None:
            raise click.UsageError(_unknown(" ".join(words)), ctx)
        found, above = inner, click.Context(inner, parent=above, info_name=word)
    click.echo(found.get_help(above))
    topic = next((topic for topic in topics() if f"`torchctl {words[0]} --help`" in page(topic)), None)
    if topic is not None:
        click.echo(f"\nThe guide: torchctl help {topic}")


def _unknown(name: str) -> str:
    import difflib

    known = list(dict.fromkeys([*topics(), *COMMANDS]))
    near = difflib.get_close_matches(name.lower(), known, n=3)
    if near:
        return f"there is no topic or command '{name}'; did you mean {' or '.join(near)}?"
    return f"there is no topic or command '{name}'; `torchctl help` lists the topics"
