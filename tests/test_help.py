"""--help: whole at 80 columns, commands and options below their headings, nothing listed that is refused."""

import click
import pytest
from click.testing import CliRunner

from torchctl.cli import COMMANDS, GROUPS, cli, command_module
from torchctl.commands.grouping import GROUPS as HEADINGS
from torchctl.commands.grouping import OWN
from torchctl.commands.summaries import Listed, docstring

PAGES = [
    [],
    *([name] for name in COMMANDS),
    *(["store", name] for name in ("keys", "get", "set", "add", "delete", "wait")),
]
WORKER_COMMANDS = ("ps", "ping", "traceback", "nccl-trace", "handlers", "diagnose", "collect", "call")
WORKER_OPTIONS = {
    "Which workers": "socket host hostfile store prefix pid user ranks job",
    "Other hosts": "nodes via remote",
    "Security": "token-file ca trust-store",
    "Limits": "timeout jobs",
    "Output": "format json",
}
REFUSED = {"diagnose": {"ranks"}} | {name: {"pid"} for name in ("ping", "handlers", "call", "nccl-trace")}


def page(*words: str, columns: int = 80) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, [*words, "--help"], prog_name="torchctl")
    assert result.exit_code == 0
    return result.stdout


def section(text: str, heading: str) -> list[str]:
    """Return the lines below a heading."""
    lines = text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0].splitlines()
    assert lines, heading
    return lines


def options_of(words: list[str]) -> list[click.Option]:
    context, command = click.Context(cli), cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(context, word)  # type: ignore[assignment]
    return [param for param in command.params if isinstance(param, click.Option)]


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_every_page_fits_80_columns(words: list[str]) -> None:
    text = page(*words)
    assert text.startswith("Usage: torchctl")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [80, 200])
def test_every_command_is_one_whole_line_below_its_heading(columns: int) -> None:
    text = page(columns=columns)
    for heading, names in GROUPS.items():
        lines = section(text, heading)
        assert [line.split()[0] for line in lines] == list(names)
        assert all(line.endswith(".") and not line.endswith("...") for line in lines)
    store = section(page("store", columns=columns), "Commands")
    assert [line.split()[0] for line in store] == ["keys", "get", "set", "add", "delete", "wait"]
    assert all(line.endswith((".", ").")) and not line.endswith("...") for line in store)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_is_that_of_the_commands_own_help(name: str) -> None:
    """The list takes it from the compiled module, which it does not run."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert Listed(name, command_module(name)).get_short_help_str(1000) == command.get_short_help_str(1000)


def test_of_a_module_without_a_command_nothing_is_listed() -> None:
    assert docstring("torchctl.commands.grouping") is None
    assert docstring("torchctl.no_such_module") is None


@pytest.mark.parametrize("name", WORKER_COMMANDS)
def test_the_commands_own_options_come_first_and_the_shared_ones_below_their_headings(name: str) -> None:
    text = page(name)
    found = [heading for heading in HEADINGS if f"\n{heading}:\n" in text]
    assert found == [OWN, *WORKER_OPTIONS]
    assert [text.index(f"\n{heading}:\n") for heading in found] == sorted(
        text.index(f"\n{heading}:\n") for heading in found
    )
    for heading, names in WORKER_OPTIONS.items():
        listed = [line.split()[0] for line in section(text, heading) if line.startswith("  --")]
        assert listed == [f"--{one}" for one in names.split() if one not in REFUSED.get(name, ())]


@pytest.mark.parametrize("words", PAGES[1:], ids=" ".join)
def test_every_option_is_listed_once_with_a_description(words: list[str]) -> None:
    listed = [line.strip().replace(",", "").split()[:2] for line in page(*words).splitlines() if line.startswith("  -")]
    for option in options_of(words):
        assert option.help
        assert sum(option.opts[0] in names for names in listed) == (not option.hidden), option.opts


def test_a_refused_option_says_why() -> None:
    result = CliRunner().invoke(cli, ["diagnose", "--ranks", "3"])
    assert result.exit_code == 2
    assert (
        "Error: --ranks cannot be used here: a verdict needs every rank, and one that is not asked would look lost"
        in result.stderr
    )
