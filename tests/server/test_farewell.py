"""The last word of a worker whose main function raises."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.processes import python
from torchctl.cli import cli
from torchctl.process import lastword
from torchctl.server.guest.farewell import frames_of, handled_by, in_words, message_of
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
        ("raise ValueError('api_key=hidden')", 1, ["uncaught ValueError"]),
        ("sys.exit(3)", 3, ["exit code 3"]),
        ("sys.exit('out of luck')", 1, ["exit code 1"]),
        ("sys.exit(0)", 0, ["exit code 0"]),
        ("sys.exit()", 0, ["exit code 0"]),
        ("pass", 0, ["exit code 0"]),
    ],
)
def test_what_main_raises_is_kept_and_goes_on(own_environment: Path, end: str, code: int, causes: list[str]) -> None:
    with python(MAIN.format(end=end, call="main()"), {"RANK": "3", "WORLD_SIZE": "8"}) as process:
        assert process.finish()[0] == code
    found = last_words(orderly=True)
    assert [(word.cause, word.rank, word.world_size, word.step) for word in found] == [
        (one, 3, 8, 1203) for one in causes
    ]
    assert [word.exit_code for word in found] == [code]
    assert [word.orderly for word in found] == [code == 0]
    assert "hidden" not in "".join(Path(word.path).read_text() for word in found)
    shown = CliRunner().invoke(cli, ["ps"]).output
    assert all((f"rank 3, pid {process.pid}: {death(word)}" in shown) is not word.orderly for word in found)


FAILING = """
import json
from torchctl.server import worker_main

def load(text):
    return json.loads(text)

with worker_main():
    load("{")
"""


def test_an_exception_is_kept_with_its_message_and_the_frames_that_it_passed(own_environment: Path) -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "8", "TORCHELASTIC_RESTART_COUNT": "2"}
    before = time.time()
    with python(FAILING, environment) as process:
        assert process.finish()[0] == 1
    (word,) = last_words()
    assert (word.exception, word.exit_code, word.signal, word.attempt) == ("JSONDecodeError", 1, "", 2)
    assert word.message.startswith("Expecting property name enclosed in double quotes: line 1 column 2")
    assert [frame.line for frame in word.frames if frame.file == "<string>"] == [6, 9]
    assert word.frames[0].function == "raw_decode"
    assert before - 2 < (word.started or 0) <= word.died
    assert "uncaught JSONDecodeError: Expecting property name" in death(word)
    assert "(<string>:6)" in death(word)


class Lazy(ValueError):
    def __str__(self) -> str:
        raise AssertionError("the job's code ran")


class Tensor:
    def __repr__(self) -> str:
        raise AssertionError("the job's code ran")


class Text(str):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no rows left"), "no rows left"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "[Errno 2] No such file or directory: '/x'"),
        (KeyError("weight"), "'weight'"),
        (Lazy("by its own method", Tensor()), "by its own method"),
        (RuntimeError("shapes differ", Tensor()), "shapes differ"),
        (RuntimeError(Tensor()), ""),
        (RuntimeError(Text("ours")), ""),
        (RuntimeError(), ""),
        (ValueError(10**5000), ""),
        (RuntimeError("x" * 5000), "x" * 400),
        (RuntimeError("refused: password=hunter2"), "refused: password=***"),
        (SystemExit("out of luck"), "out of luck"),
        (SystemExit(3), ""),
    ],
)
def test_a_message_is_read_without_running_code_of_the_job(error: BaseException, message: str) -> None:
    assert message_of(error) == message


def test_what_was_handled_when_it_was_raised_is_kept() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("shard")
            except KeyError as error:
                raise RuntimeError("Connection closed by peer") from error
        except RuntimeError:
            sys.exit(1)

    with pytest.raises(SystemExit) as raised:
        fail()
    assert handled_by(raised.value) == (("RuntimeError", "Connection closed by peer"), ("KeyError", "'shard'"))
    assert handled_by(ValueError()) == ()
    loop, other = ValueError("a"), ValueError("b")
    loop.__context__, other.__context__ = other, loop
    assert handled_by(loop) == (("ValueError", "b"),)


def test_of_a_deep_stack_the_innermost_frames_are_kept() -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError("at the bottom")

    with pytest.raises(ValueError, match="at the bottom") as raised:
        fail(500)
    frames = frames_of(raised.value.__traceback__)
    assert 5 < len(frames) < 200
    assert (frames[0].line, frames[1].line) == (fail.__code__.co_firstlineno + 3, fail.__code__.co_firstlineno + 2)
    assert {frame.function for frame in frames} == {"fail"}


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_the_orderly_end_of_a_process_that_no_rank_can_need_is_not_kept(
    own_environment: Path, environment: dict[str, str]
) -> None:
    with python(MAIN.format(end="pass", call="main()"), environment) as process:
        assert process.finish()[0] == 0
    assert last_words(orderly=True) == []


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
        "exit code 0",
        "exit code 0",
    ]
    assert in_words(KeyboardInterrupt()) == "uncaught KeyboardInterrupt"
    assert lastword.in_words(signal.SIGKILL) == "SIGKILL"
