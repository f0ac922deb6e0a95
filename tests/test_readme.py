"""The README says what is: every command and exit code stands in it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from torchctl import errors
from torchctl.cli import COMMANDS, cli
from torchctl.server import get_handler_names

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section(name: str) -> None:
    assert re.search(rf"^### .*torchctl {name}\b", README, re.MULTILINE)


def test_every_exit_code_is_in_the_table() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == codes | {130}


def test_every_option_that_the_readme_names_exists() -> None:
    commands = [[name] for name in COMMANDS]
    commands += [["store", name] for name in ("keys", "get", "set", "add", "delete", "wait")]
    helps = "".join(CliRunner().invoke(cli, [*command, "--help"]).stdout for command in commands)
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in helps, option


def test_every_handler_of_ours_is_in_the_table() -> None:
    for name in ("ping", "info", "dump_traceback", "pyspy_dump", "torch_profile", "fr_trace_json", "fr_trace_pickle"):
        assert name in get_handler_names()
        assert f"`{name}`" in README


def test_the_make_targets_that_it_promises_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
