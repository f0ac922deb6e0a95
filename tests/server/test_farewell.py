"""The last word of a worker whose main function raises."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.processes import python
from torchctl.cli import cli
from torchctl.process import lastword
from torchctl.server.guest.farewell import in_words
from torchctl.workers.causes import death, last_words

MAIN = """
import sys
from torchctl.server import report_step, worker_main

@worker_main()
def main():
    report_step(1203)
    {end}

{call}
"""


@pytest.mark.parametrize(
    ("end", "code", "causes"),
    [
        ("raise ValueError('secret')", 1, ["uncaught ValueError"]),
        ("sys.exit(3)", 3, ["exit code 3"]),
        ("sys.exit('out of luck')", 1, ["exit code 1"]),
        ("sys.exit(0)", 0, []),
        ("sys.exit()", 0, []),
        ("pass", 0, []),
    ],
)
def test_what_main_raises_is_kept_and_goes_on(own_environment: Path, end: str, code: int, causes: list[str]) -> None:
    with python(MAIN.format(end=end, call="main()"), {"RANK": "3", "WORLD_SIZE": "8"}) as process:
        assert process.finish()[0] == code
    found = last_words()
    assert [(word.cause, word.rank, word.world_size, word.step) for word in found] == [
        (one, 3, 8, 1203) for one in causes
    ]
    assert "secret" not in "".join(Path(word.path).read_text() for word in found)
    shown = CliRunner().invoke(cli, ["ps"]).output
    assert all(f"rank 3, pid {process.pid}: {death(word)}" in shown for word in found)


def test_who_lives_on_is_not_among_the_dead(own_environment: Path) -> None:
    call = "try: main()\nexcept ValueError: print('caught', flush=True)\nsys.stdin.readline()"
    with python(MAIN.format(end="raise ValueError", call=call)) as process:
        process.wait_for("caught")
        assert [word.pid for word in lastword.read_all(str(own_environment))] == [process.pid]
        assert last_words() == []
        process.tell("end")
        assert process.finish()[0] == 0
    assert [word.pid for word in last_words()] == [process.pid]


def test_words_for_every_way_to_raise() -> None:
    assert [in_words(SystemExit(code)) for code in (256 + 7, True, False, None)] == [
        "exit code 7",
        "exit code 1",
        "",
        "",
    ]
    assert (in_words(KeyboardInterrupt()), in_words(GeneratorExit())) == ("uncaught KeyboardInterrupt", "")
    assert lastword.in_words(signal.SIGKILL) == "SIGKILL"
