"""Reading many dumps: the same stacks as reading each alone, in every form."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import python
from tests.stacks.texts import FEEDER, STUCK, WAITING, dump
from torchctl.server import Request, Response, get_handler
from torchctl.stacks.reader import StackReader, parse_stacks

PYSPY = """\
Process 4711: python train.py --name "x (y)"
Python v3.11.7 (/usr/bin/python3.11)

Thread 4720 (active): "Thread-1 (work)"
    spin (train.py:7)
Thread 4711 (idle): "MainThread"
    wait (threading.py:320)
    all_reduce (torch/distributed/distributed_c10d.py:3252)
    <module> (train.py:38)
Thread 0x7F0011223344 (idle)
    <module> (train.py:1)

--------------------------------------------------------------------------------
Process 4800: python child
Python v3.11.7 (/usr/bin/python3.11)
Parent Process 4711: python train.py --name "x (y)"

Thread 4800 (idle): "MainThread"
    child (train.py:99)
"""


def test_pyspys_text_is_the_first_processs_threads() -> None:
    stacks = StackReader().read(PYSPY.encode())
    assert [(thread.ident, thread.name, thread.main) for thread in stacks.threads] == [
        (4720, "Thread-1 (work)", False),
        (4711, "MainThread", True),
        (0x7F0011223344, "", False),
    ]
    assert stacks.main is not None
    assert [(frame.file, frame.line, frame.function, frame.origin) for frame in stacks.main.frames] == [
        ("threading.py", 320, "wait", "python"),
        ("torch/distributed/distributed_c10d.py", 3252, "all_reduce", "torch"),
        ("train.py", 38, "<module>", "user"),
    ]


def test_a_real_pyspys_text_is_read() -> None:
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        pytest.skip("py-spy is not installed")
    with python("def stuck():\n    print('up', flush=True)\n    input()\nstuck()") as process:
        process.wait_for("up")
        arguments = [program, "dump", "--nonblocking", "--pid", str(process.pid)]
        result = subprocess.run(arguments, capture_output=True, timeout=60)
        if result.returncode:
            pytest.skip("py-spy may not read processes here")
    stacks = StackReader().read(result.stdout)
    assert stacks.main is not None
    assert stacks.main.frames[0].function == "stuck"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(dump(1, WAITING, ("x", FEEDER), ("", STUCK)).decode().splitlines()), max_size=30))
def test_what_a_reader_has_read_before_changes_nothing(lines: list[str]) -> None:
    reader = StackReader()
    reader.read(dump(1, WAITING, ("x", FEEDER), ("", STUCK)))
    data = "\n".join(lines).encode()
    try:
        alone = parse_stacks(data)
    except ValueError:
        with pytest.raises(ValueError):
            reader.read(data)
        return
    assert reader.read(data) == alone


LONG = st.integers(0, 6000).map("a".__mul__)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 6000), st.integers(0, 3), LONG)
def test_the_lengths_of_paths_and_of_what_is_before_do_not_change_the_verdict(
    length: int, others: int, before: str
) -> None:
    """Whoever cuts the text in the middle of a heading takes faulthandler's ``Thread 0x7f00`` for py-spy's."""
    path = "/home/" + "a" * length + "/train.py"
    frames = [(path, 38, "<module>"), (path, 24, "train_step")]
    stacks = parse_stacks(f"{before}\n".encode() + dump(3, frames, *[("", frames)] * others))
    assert len(stacks.threads) == others + 1
    assert stacks.main is not None
    assert [(frame.file, frame.line) for frame in stacks.main.frames] == [(path, 24), (path, 38)]
    theirs = parse_stacks(f"{before}\n{PYSPY.replace('train.py', path)}".encode())
    assert theirs.main is not None
    assert [frame.file for frame in theirs.main.frames][-1] == path
    assert len(theirs.threads) == 3


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000))
def test_a_text_that_ends_too_early_gives_its_whole_threads_or_none(end: int) -> None:
    for text in (dump(3, WAITING, ("", STUCK), ("x", FEEDER)), PYSPY.encode()):
        whole = parse_stacks(text)
        try:
            cut = parse_stacks(text[:end])
        except ValueError:
            continue
        for one, all_of_it in zip(cut.threads, whole.threads, strict=False):
            assert one.ident == all_of_it.ident
            torn = not text[:end].endswith(b"\n")  # then its last frame's name may be a part
            whole_frames = one.frames[:-1] if torn else one.frames
            assert whole_frames == all_of_it.frames[: len(whole_frames)]


@pytest.mark.parametrize(
    ("ending", "cut"),
    [
        ("", False),
        ("\n", False),
        ("\n...\n", True),
        ("\n...", True),
        ("\n\n...\n\n", True),
        ("\n...\n\nnote: x\n", True),
    ],
)
def test_a_dump_cut_short_is_known_by_a_line_below_the_last_thread(ending: str, cut: bool) -> None:
    text = dump(3, WAITING, ("", STUCK)).decode().replace(" [MainThread]", "") + ending
    stacks = parse_stacks(text.encode())
    assert stacks.truncated is cut
    assert [thread.main for thread in stacks.threads] == [False, not cut]


def test_the_servers_text_and_json_are_the_same_stacks() -> None:
    reader = StackReader()
    answers = []
    for form in ("text", "json"):
        response = Response()
        get_handler("dump_traceback")(Request({"format": form}), response)
        answers.append(reader.read(response.content))
        assert answers[-1] == parse_stacks(response.content)
    assert [thread.name for thread in answers[0].threads] == [thread.name for thread in answers[1].threads]
    assert answers[0].main is not None
    assert answers[1].main is not None
    assert (
        answers[0].main.frames[-1] is answers[1].main.frames[-1]
        or answers[0].main.frames[-5:] == (answers[1].main.frames[-5:])
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (PYSPY + text).encode("utf-8", "replace")))
def test_anything_parses_or_is_a_value_error(data: bytes) -> None:
    try:
        assert StackReader().read(data).threads
    except ValueError:
        pass


HEADINGS = [
    "Thread 0x",
    "Thread 1 (",
    'Thread 1 (idle): "',
    "Process 1: ",
    'Current thread 0x1 ["',
    "  File ",
    '  File "',
    "    f (",
]
FRAGMENTS = [
    *HEADINGS,
    '", line 1 in ',
    " (most recent call first):\n",
    "(a.py:1)\n",
    " ",
    "\n",
    '"',
    ":",
    ")",
    "...\n",
    "\t",
    "é",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
def test_pieces_of_all_formats_parse_or_are_a_value_error(text: str) -> None:
    for parse in (StackReader().read, parse_stacks):
        try:
            assert parse(text.encode()).threads
        except ValueError:
            pass


@pytest.mark.parametrize(
    "fragment", [*FRAGMENTS, "Thread 0x1 (most recent call first):\n", '  File "a", line 1 in f\n']
)
def test_a_megabyte_of_any_fragment_takes_seconds_at_most(fragment: str) -> None:
    """A parser that looks back would need hours."""
    for text in (fragment * ((1 << 20) // len(fragment)), dump(1, WAITING).decode() + fragment * 200_000):
        for parse in (StackReader().read, parse_stacks):
            began = time.monotonic()
            try:
                parse(text.encode())
            except ValueError:
                pass
            assert time.monotonic() - began < 90
