"""README and guide say what is: commands, options, exit codes, variables, links; nothing is missing."""

import ast
import functools
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from tests import guide
from tests.guide import PAGES, ROOT
from torchctl import errors, protocol
from torchctl.cli import COMMANDS, cli
from torchctl.commands.help import topics
from torchctl.diagnosis.model import Kind
from torchctl.protocol import runtimedir
from torchctl.server import WorkerServer, get_handler_names

README = PAGES["README.md"]
MOST_WORDS = 1500
# Words that stand for something, and a value of that kind.
PLACEHOLDERS = {"HOST:PORT": "node1:29500", "PID": "4711", "PID,...": "4711", "N": "3", "K": "3"}
STORE_COMMANDS = ("keys", "get", "set", "add", "delete", "wait")


def page(topic: str) -> str:
    return PAGES[f"torchctl/guide/{topic}.md"]


def parse(words: list[str]) -> None:
    """Parse a command line as torchctl would, without running it."""
    command: click.Command = cli
    context = click.Context(cli, info_name="torchctl")
    left = [PLACEHOLDERS.get(word, word) for word in words]
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        name, *left = left
        inner = command.get_command(context, name)
        assert inner is not None, f"no command {name}"
        if isinstance(inner, click.Group):
            context, command = click.Context(inner, parent=context, info_name=name), inner
            continue
        try:
            inner.make_context(name, [*left], parent=context)
        except click.exceptions.Exit:
            assert left == ["--help"]
        return
    assert left in ([], ["--help"], ["--version"])


@pytest.mark.parametrize("name", PAGES)
def test_screens_show_the_line_at_which_a_script_is_run(name: str) -> None:
    lines = (ROOT / "server" / "__main__.py").read_text().splitlines()
    for number in re.findall(r"torchctl/server/__main__\.py:(\d+) in _run_script", PAGES[name]):
        assert lines[int(number) - 1].strip().startswith("exec(code")


@pytest.mark.parametrize("name", PAGES)
def test_every_command_parses(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    whole = guide.shown(PAGES[name])
    for command in whole | guide.named(PAGES[name]):
        words = guide.words(command)
        if words[0] == "COMMAND":
            assert words == ["COMMAND", "--help"]
            continue
        try:
            parse(words)
        except click.MissingParameter as error:
            assert command not in whole, f"{command}: {error.format_message()}"
        except click.UsageError as error:
            raise AssertionError(f"{command}: {error.format_message()}") from error


@functools.cache
def every_help() -> str:
    named = [[command] for command in COMMANDS] + [["store", command] for command in STORE_COMMANDS]
    return "".join(CliRunner().invoke(cli, [*command, "--help"]).stdout for command in named)


@functools.cache
def server_help() -> str:
    command = [sys.executable, "-m", "torchctl.server", "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr


@pytest.mark.parametrize("name", PAGES)
def test_every_option_that_is_named_exists(name: str) -> None:
    for option in set(re.findall(r"`(--[a-z-]+)", PAGES[name])):
        assert option in every_help(), option
    for line in re.findall(r"python -m torchctl\.server ([^`\n]*)", PAGES[name]):
        for option in re.findall(r"--[a-z-]+", line.partition("train.py")[0]):
            assert option in server_help() or option == "--help", option


def test_every_topic_that_is_named_exists() -> None:
    known = {*topics(), *COMMANDS, "TOPIC", "COMMAND"}
    for text in PAGES.values():
        assert set(re.findall(r"torchctl help ([\w-]+)", text)) <= known


def test_every_page_is_listed_and_begins_with_its_title() -> None:
    assert sorted(topics()) == sorted(path.stem for path in guide.GUIDE.glob("*.md") if path.stem != "README")
    for topic in topics():
        assert page(topic).startswith("# ")
        assert f"(torchctl/guide/{topic}.md)" in README, topic


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"help"}))
def test_some_page_of_the_guide_documents_every_command(name: str) -> None:
    assert any(f"`torchctl {name} --help`" in page(topic) for topic in topics())


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[name]):
        assert (ROOT / name).parent.joinpath(target).is_file(), target


def test_every_exit_code_is_in_the_table() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {click.UsageError.exit_code}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page("exit-codes"), re.MULTILINE)} == codes


def test_every_handler_of_ours_is_in_the_table() -> None:
    ours = ("ping", "info", "dump_traceback", "pyspy_dump", "torch_profile", "fr_digest", "fr_trace_json", "calls")
    for name in (*ours, "fr_trace_pickle"):
        assert name in get_handler_names()
        assert f"`{name}`" in page("handlers")


def test_every_kind_of_finding_is_in_the_table() -> None:
    table = page("diagnose").partition("| kind |")[2].partition("\n\n")[0]
    named = [cell for row in table.splitlines()[2:] for cell in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(get_args(Kind))


def test_every_variable_is_in_the_guide_and_every_variable_of_the_guide_exists() -> None:
    ours = {value for module in (protocol, runtimedir) for name, value in vars(module).items() if "_VARIABLE" in name}
    assert ours <= set(re.findall(r"`([A-Z0-9_]+)`", page("environment")))
    code = "".join(path.read_text() for top in ("torchctl", "server") for path in (ROOT / top).rglob("*.py"))
    for text in PAGES.values():
        for variable in set(re.findall(r"\bTORCHCTL_[A-Z0-9_]+\b", text)):
            assert f'"{variable}"' in code, variable


def test_every_extra_that_is_named_exists() -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    extras = set(re.findall(r"^(\w+) = \[", section.partition("\n[project.")[0], re.MULTILINE))
    for text in PAGES.values():
        for named in re.findall(r"pip install '(?:torchctl|\.)\[([\w,]+)\]'", text):
            assert set(named.split(",")) <= extras


def test_python_that_is_shown_compiles_and_its_names_exist() -> None:
    for text in PAGES.values():
        for language, block in guide.fences(text):
            if language != "python":
                continue
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("torchctl"):
                    for alias in node.names:
                        assert hasattr(importlib.import_module(node.module), alias.name)


def test_the_make_targets_that_are_promised_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in PAGES.values():
        for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_is_short_and_begins_with_a_screenful_of_commands() -> None:
    assert len(README.split()) <= MOST_WORDS
    before, _, _ = README.partition("\n## ")
    [(_, block)] = guide.fences(before)
    assert len(block.splitlines()) <= 24
    assert block.startswith("make demo") and "\nmake test" in block


def test_json_has_the_schema_and_the_keys_of_the_table(folder: Path) -> None:
    rows = re.findall(r"^\| `torchctl ([^`]+)` \| `([^`]+)` \| (.+) \|$", page("json"), re.MULTILINE)
    assert len(rows) == 9
    live, dead = str(folder / "live"), str(folder / "dead")
    with WorkerServer(live):
        WorkerServer(dead).shutdown()
        for command, schema, listed in rows:
            left = {"DIR": str(folder / "out"), "NAME": "ping", "PID": str(os.getpid())}
            words = [left.get(word, word) for word in command.split()]
            asked = [] if words[0] == "doctor" else ["--socket", live, "--socket", dead]
            document = json.loads(CliRunner().invoke(cli, [*words, *asked, "--json"]).stdout)
            keys = {*re.findall(r"`(\w+)`", listed), "schema"}
            if words[0] not in ("nccl-trace", "diagnose", "doctor"):
                keys |= {"failures", "not_found", "missing_ranks"}
            assert (document["schema"], set(document)) == (schema, keys)
