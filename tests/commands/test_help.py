"""`torchctl help`: the guide in a pipe as it is, on a terminal rendered and paged; near names for a wrong one."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from tests.guide import GUIDE
from torchctl.cli import cli
from torchctl.commands.help import topics


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["help", *arguments], prog_name="torchctl")


def on_terminal(*arguments: str, rows: int, columns: int = 80, **environment: str) -> str:
    """Return what `torchctl help` shows on a terminal of that size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "LESS", "PAGER"}
    settings = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, "-m", "torchctl", "help", *arguments],
        stdin=slave,
        stdout=slave,
        env={**settings, "TERM": "xterm-256color", "PAGER": "false", **environment},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux's way to say that nobody has the other end open any more
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait(60) == 0
    return shown.decode().replace("\r\n", "\n")


def test_alone_it_lists_every_topic_on_a_line_that_fits_80_columns() -> None:
    result = run()
    assert result.exit_code == 0
    first, blank, *listed, last_blank, last = result.stdout.splitlines()
    assert (first, blank, last_blank) == ("Topics, each a page: torchctl help TOPIC", "", "")
    assert last == "The options of a command: torchctl COMMAND --help"
    assert [line.split()[0] for line in listed] == list(topics())
    assert max(map(len, listed)) <= 80


@pytest.mark.parametrize("topic", topics())
def test_in_a_pipe_a_page_is_its_markdown(topic: str) -> None:
    result = run(topic)
    assert (result.exit_code, result.stdout) == (0, (GUIDE / f"{topic}.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "topic"),
    [(["ping"], "workers"), (["nccl-trace"], "traces"), (["store", "get"], "store"), (["help"], "")],
)
def test_a_command_without_a_page_shows_its_help_and_names_the_page(words: list[str], topic: str) -> None:
    own = CliRunner().invoke(cli, [*words, "--help"], prog_name="torchctl").stdout
    more = f"\nThe guide: torchctl help {topic}\n" if topic else ""
    assert (run(*words).exit_code, run(*words).stdout) == (0, own + more)


def test_a_name_that_is_a_topic_and_a_command_shows_the_page() -> None:
    assert run("store").stdout.startswith("# ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dagnose"], "there is no topic or command 'dagnose'; did you mean diagnose?"),
        (["Exit-Code"], "there is no topic or command 'Exit-Code'; did you mean exit-codes?"),
        (["xyzzy"], "there is no topic or command 'xyzzy'; `torchctl help` lists the topics"),
        (["../README"], "there is no topic or command '../README'; `torchctl help` lists the topics"),
        (["store", "gett"], "there is no topic or command 'store gett'; did you mean store?"),
    ],
)
def test_an_unknown_name_is_wrong_usage_with_near_names(words: list[str], said: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {said}"


def test_on_a_terminal_a_page_that_fits_is_shown_without_a_pager() -> None:
    shown = on_terminal("exit-codes", rows=60)
    assert "\x1b[1" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert plain.startswith("What each exit code means\n")
    assert max(map(len, plain.splitlines())) <= 80
    assert "| --- |" not in plain


def test_on_a_terminal_a_long_page_goes_to_the_pager(folder: Path) -> None:
    pager = folder / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {folder}/paged\necho paged\n")
    pager.chmod(0o755)
    assert on_terminal("workers", rows=24, PAGER=str(pager)) == "paged\n"
    paged = (folder / "paged").read_text()
    assert paged.startswith("Which workers a command asks\n")
    assert "see torchctl help nodes" in " ".join(paged.split())


def test_columns_and_no_color_are_followed() -> None:
    shown = on_terminal("exit-codes", rows=60, COLUMNS="50", NO_COLOR="1")
    assert re.findall(r"\x1b\[(?:[\d;]*;)?(?:3\d|4\d|9\d)(?:;[\d;]*)?m", shown) == []
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in shown.splitlines()) <= 50


def test_topics_and_commands_complete() -> None:
    complete = ShellComplete(cli, {}, "torchctl", "_TORCHCTL_COMPLETE")
    assert [item.value for item in complete.get_completions(["help"], "st")] == ["start", "stacks", "store"]
    assert [item.value for item in complete.get_completions(["help"], "pi")] == ["ping"]
    assert complete.get_completions(["help", "store"], "") == []
