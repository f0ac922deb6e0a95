"""Last words: written once, into a folder that is ours, read back with nothing believed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from torchctl.errors import RuntimeDirError
from torchctl.process.lastword import LastWord, exit_status, forget, in_words, read_all, write

WORD = LastWord(41, 1_700_000_000.25, "SIGKILL", 3, 8, "job", "vm", 1203, "", "/x/s")
NOW = 1_700_000_100.0


def test_what_is_written_is_read(folder: Path) -> None:
    write(str(folder / "run"), WORD)
    (found,) = read_all(str(folder / "run"), now=NOW)
    assert found._replace(path="") == WORD
    assert os.stat(found.path).st_mode & 0o777 == 0o600


def test_the_latest_comes_first_and_after_a_day_they_go(folder: Path) -> None:
    run = str(folder / "run")
    for pid, age_s in ((1, 10), (2, 5), (3, 90_000)):
        write(run, WORD._replace(pid=pid, died=NOW - age_s))
    assert [word.pid for word in read_all(run, now=NOW)] == [2, 1]
    assert len(os.listdir(run)) == 2
    assert forget(run) == 2 and not os.listdir(run)


def test_a_clock_set_back_loses_nothing(folder: Path) -> None:
    write(str(folder / "run"), WORD._replace(died=NOW + 7200))
    assert [word.died for word in read_all(str(folder / "run"), now=NOW)] == [NOW + 7200]


def test_a_folder_of_others_gets_nothing(folder: Path) -> None:
    folder.chmod(0o755)
    write(str(folder), WORD)
    assert os.listdir(folder) == []
    with pytest.raises(RuntimeDirError):
        read_all(str(folder))


def test_a_link_in_the_files_place_is_not_followed(folder: Path) -> None:
    run = folder / "run"
    run.mkdir(mode=0o700)
    (folder / "target").write_text("kept")
    (run / f"41-{int(WORD.died * 1000)}.died").symlink_to(folder / "target")
    write(str(run), WORD)
    assert (folder / "target").read_text() == "kept"
    assert read_all(str(run), now=NOW) == []
    assert (folder / "target").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": "other"}',
        "[" * 100_000,
        '{"schema":"torchctl.last-word/1","died":"x"}',
        '{"schema":"torchctl.last-word/1","died":NaN}',
        '{"schema":"torchctl.last-word/1","died":1e300}',
        '{"schema":"torchctl.last-word/1","died":-1.5}',
    ],
)
def test_a_broken_file_is_removed(folder: Path, text: str) -> None:
    run = folder / "run"
    run.mkdir(mode=0o700)
    (run / "1-1.died").write_text(text)
    os.utime(run / "1-1.died", (NOW - 600, NOW - 600))
    assert read_all(str(run), now=NOW) == []
    assert os.listdir(run) == []


def test_a_file_that_is_just_being_written_stays(folder: Path) -> None:
    run = folder / "run"
    run.mkdir(mode=0o700)
    (run / "1-1.died").write_text("")
    assert read_all(str(run)) == []
    assert os.listdir(run) == ["1-1.died"]


def test_fields_of_other_types_are_left_out(folder: Path) -> None:
    run = folder / "run"
    run.mkdir(mode=0o700)
    document = {"schema": "torchctl.last-word/1", "died": NOW, "pid": True, "rank": "1", "cause": 5, "step": 2.5}
    document["world_size"] = 10**4000
    (run / "1-1.died").write_text(json.dumps(document))
    assert read_all(str(run), now=NOW) == [LastWord(0, NOW, "", path=str(run / "1-1.died"))]


def test_the_status_of_a_dead_process_is_seen_before_and_after_it_was_collected() -> None:
    for killed, words in ((False, "exit code 7"), (True, "SIGKILL")):
        child = os.fork()
        if child == 0:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)
        deadline = time.monotonic() + 10
        while exit_status(child, None) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert in_words(exit_status(child, None)) == words
        os.waitpid(child, 0)
        assert exit_status(child, None) is None


def test_words_for_every_status() -> None:
    assert in_words(None) == ""
    assert in_words(0) == "exit code 0"
    assert in_words(signal.SIGSEGV | 0x80) == "SIGSEGV, core dumped"
    assert in_words(64) == "SIGRTMAX"
    assert in_words(63) == "signal 63"
