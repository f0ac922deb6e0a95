"""The layout of --help: the command's own options first, then shared options, by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

OWN = "Options"
WORKERS = "Which workers"
HOSTS = "Other hosts"
SECURITY = "Security"
LIMITS = "Limits"
STORE = "Which store"
OUTPUT = "Output"
GROUPS = (OWN, WORKERS, HOSTS, SECURITY, LIMITS, STORE, OUTPUT)  # in --help order


class GroupedOption(click.Option):
    """An option that several commands share, listed under its group's heading, with its default if it has one."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        settings.setdefault("show_default", bool(settings.get("default")))
        super().__init__(*names, **settings)
        self.group = group


def shared_option(group: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """Return `click.option` for an option in a group."""
    return click.option(*names, cls=partial(GroupedOption, group=group), **settings)  # type: ignore[arg-type]


class GroupedCommand(click.Command):
    """A command whose --help lists its options by group, all descriptions in one column."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups[getattr(param, "group", OWN)].append(record)
        width = max(len(names) for records in groups.values() for names, _ in records)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl([(names.ljust(width), words) for names, words in records])


class GroupedCommands(click.Group):
    """A group of such commands, listed in definition order with complete summaries."""

    command_class = GroupedCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        list_commands(formatter, {"Commands": self.list_commands(ctx)}, self.commands.get)


def list_commands(
    formatter: click.HelpFormatter,
    headings: Mapping[str, Sequence[str]],
    find: Callable[[str], click.Command | None],
) -> None:
    """List commands under their headings, each with the first sentence of its help, which is never cut.

    Args:
        formatter: receives the lines.
        headings: the command names under each heading.
        find: returns a command by name.
    """
    width = max(len(name) for names in headings.values() for name in names)
    for heading, names in headings.items():
        with formatter.section(heading):
            commands = [(name, find(name)) for name in names]
            formatter.write_dl([(name.ljust(width), one.get_short_help_str(1000)) for name, one in commands if one])
