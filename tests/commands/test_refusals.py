"""What was typed wrongly is refused in a sentence that says what is wrong, in the same words by every command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from torchctl.cli import COMMANDS, cli
from torchctl.workers.hosts.relay import Errand


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, prog_name="torchctl")


def refused(*words: str) -> str:
    """Return the last line of the refusal of wrong usage."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("doctor abc", "Invalid value for '[PID]': 'abc' is not a process id"),
        ("doctor 0", "Invalid value for '[PID]': 0 is less than 1"),
        ("ping --jobs x", "Invalid value for '--jobs': 'x' is not a whole number"),
        ("traceback --samples 1001", "Invalid value for '--samples': 1001 is more than 1000"),
        ("nccl-trace --last -1", "Invalid value for '--last': -1 is less than 0"),
    ],
)
def test_a_number_that_cannot_be_is_named_with_its_limit(words: str, said: str) -> None:
    assert refused(*words.split()) == f"Error: {said}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_no_range_in_clicks_own_form(name: str) -> None:
    text = run(name, "--help").stdout
    assert "x>=" not in text and "<=x" not in text and "RANGE" not in text and "(all)" not in text


@pytest.mark.parametrize("command", ["ping", "diagnose", "collect out"])
def test_options_for_other_hosts_are_refused_where_no_host_is_named(command: str) -> None:
    said = "only {} to hosts that --nodes names, and it names none"
    assert refused(*command.split(), "--remote", "/opt/torchctl") == f"Error: --remote {said.format('applies')}"
    words = [*command.split(), "--via", "srun -w {host}", "--remote", "/opt/torchctl"]
    assert refused(*words) == f"Error: --via and --remote {said.format('apply')}"


@pytest.mark.parametrize("command", ["traceback", "nccl-trace", "diagnose"])
def test_a_path_that_does_not_exist_is_said_in_the_same_words(command: str) -> None:
    result = run(command, "/nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "torchctl: /nowhere does not exist\n  check the path\n"


@pytest.mark.parametrize("word", ["xx", "e30", "bm90anNvbg", Errand("ping", {}, -1.0).encoded()])
def test_a_relay_without_a_request_says_whose_command_it_is(word: str) -> None:
    assert refused("relay", word) == (
        f"Error: Invalid value for ERRAND: '{word[:40]}' is not a request of --nodes, which runs this command by itself"
    )


@pytest.mark.parametrize(("name", "arguments"), [("nope", {}), ("call", {}), ("call", {"handler": 1, "params": []})])
def test_a_relay_says_that_it_does_not_know_a_request(name: str, arguments: dict[str, object]) -> None:
    assert refused("relay", Errand(name, arguments, 5.0).encoded()).endswith(
        f"this torchctl cannot ask '{name}' with these arguments; the asking host's may be newer"
    )
