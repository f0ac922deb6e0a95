"""Logs as files: compressed, from standard input, and those that are none."""

from __future__ import annotations

import gzip
import importlib.util
import json
import lzma
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from torchctl.cli import cli
from torchctl.reports.reading import read_logs

FAILED = (
    b"[rank1]: Traceback (most recent call last):\n"
    b'[rank1]:   File "/job/a.py", line 8, in step\n'
    b"[rank1]: ValueError: x\n"
)


def verdict(path: Path, stdin: bytes | None = None) -> tuple[str, int]:
    result = CliRunner().invoke(cli, ["diagnose", "--json", "-" if stdin else str(path)], input=stdin)
    return json.loads(result.stdout)["verdict"], result.exit_code


def test_plain_compressed_and_standard_input_give_the_same(tmp_path: Path) -> None:
    expected = ("rank 1 raised ValueError: x, in step (/job/a.py:8).", 6)
    (tmp_path / "train.log").write_bytes(FAILED)
    (tmp_path / "train.log.gz").write_bytes(gzip.compress(FAILED))
    (tmp_path / "train.log.xz").write_bytes(lzma.compress(FAILED))
    for name in ("train.log", "train.log.gz", "train.log.xz"):
        assert verdict(tmp_path / name) == expected
    assert verdict(tmp_path, FAILED) == expected


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is not None, reason="zstandard is installed")
def test_zst_needs_a_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("compression") is not None:
        pytest.skip("this Python reads .zst")
    path = tmp_path / "train.log.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    _, _, unread = read_logs([str(path)], str(tmp_path))
    assert [one.reason for one in unread] == [
        "cannot be read without `pip install zstandard` (or Python 3.14): unpack it"
    ]


def test_what_is_no_log_gets_one_note_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.log")
    (tmp_path / "binary.log").write_bytes(b"\0\1\2")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(FAILED * 100)[:60])
    paths = [str(tmp_path / name) for name in ("fifo.log", "binary.log", "torn.gz", "none.log")]
    _, _, unread = read_logs(paths, str(tmp_path))
    assert [(os.path.basename(one.source), one.reason.partition(":")[0]) for one in unread] == [
        ("fifo.log", "is not a regular file"),
        ("binary.log", "is not text"),
        ("torn.gz", "cannot be read"),
        ("none.log", "cannot be read"),
    ]


def test_a_log_that_says_nothing_is_no_proof_of_health(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("step 1\nstep 2\n")
    said, code = verdict(tmp_path)
    assert said.startswith("Cannot tell: ")
    assert code == 1
