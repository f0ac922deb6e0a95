"""Which last words belong together: by process, by attempt at a job, by job."""

from __future__ import annotations

from typing import Any

from torchctl.process.deaths import attempts_of, by_job, one_per_process
from torchctl.process.lastword import LastWord

NOW = 1_700_000_000.0


def word(rank: int, died: float, cause: str = "SIGKILL", **more: Any) -> LastWord:
    known: dict[str, Any] = {"job_id": "job", "host": "vm", "world_size": 4, "started": NOW, "pid": 100 + rank, **more}
    return LastWord(died=NOW + died, cause=cause, rank=rank, **known)


def ranks(words: list[LastWord]) -> list[tuple[int | None, str]]:
    return [(one.rank, one.cause) for one in words]


def test_of_two_last_words_of_a_process_the_first_says_what_ended_it() -> None:
    both = [word(1, 10.2, "SIGTERM"), word(1, 10.0, "uncaught ValueError")]
    assert ranks(one_per_process(both)) == [(1, "uncaught ValueError")]


def test_a_process_killed_on_its_way_out_did_not_end_orderly() -> None:
    both = [word(1, 10.0, "exit code 0", orderly=True), word(1, 60.0, "SIGSEGV")]
    assert ranks(one_per_process(both)) == [(1, "SIGSEGV")]


def test_a_pid_that_was_used_again_is_another_process() -> None:
    both = [word(1, 10.0), word(1, 900.0, started=NOW + 800)]
    assert len(one_per_process(both)) == 2
    # Older versions wrote no start: the address is the process's.
    older = [word(1, 10.0, started=None, endpoint="/a"), word(1, 900.0, started=None, endpoint="/b")]
    assert len(one_per_process(older)) == 2


def test_the_deaths_of_an_attempt_are_in_their_order() -> None:
    (attempt,) = attempts_of([word(0, 10.3), word(3, 10.0), word(1, 10.1)])
    assert [one.rank for one in attempt.words] == [3, 1, 0]


def test_a_restart_by_torchrun_is_another_attempt() -> None:
    first = [word(rank, 10.0 + rank, attempt=0) for rank in range(4)]
    second = [word(rank, 30.0 + rank, attempt=1, started=NOW + 20, pid=200 + rank) for rank in range(2)]
    latest, former = attempts_of(first + second)
    assert [one.attempt for one in latest.words] == [1, 1]
    assert [one.attempt for one in former.words] == [0] * 4


def test_a_run_by_hand_under_the_same_id_is_another_attempt() -> None:
    first = [word(rank, 10.0) for rank in range(4)]
    second = [word(rank, 630.0, started=NOW + 600, pid=200 + rank) for rank in range(2)]
    latest, former = attempts_of(first + second)
    assert ([one.pid for one in latest.words], len(former.words)) == ([200, 201], 4)


def test_who_died_before_the_last_rank_was_started_is_of_the_same_attempt() -> None:
    (attempt,) = attempts_of([word(0, 0.5), word(1, 30.0, started=NOW + 2)])
    assert [one.rank for one in attempt.words] == [0, 1]


def test_older_files_without_a_start_are_one_per_rank() -> None:
    known: dict[str, Any] = {"started": None, "endpoint": "/x"}
    latest, former = attempts_of([word(0, 10, **known), word(1, 11, **known), word(0, 500, **{**known, "pid": 9})])
    assert sorted(one.pid for one in latest.words) == [9, 101]
    assert [one.pid for one in former.words] == [100]


def test_jobs_are_listed_the_last_to_end_first_and_their_dead_in_order() -> None:
    words = [word(0, 10.0), word(1, 9.0), word(0, 50.0, job_id="b", pid=7), word(1, 49.0, job_id="b", pid=8)]
    assert [(one.job_id, one.rank) for one in by_job(attempts_of(words))] == [
        ("b", 1),
        ("b", 0),
        ("job", 1),
        ("job", 0),
    ]


def test_what_belongs_to_no_job_is_not_mixed() -> None:
    alone = [LastWord(pid, NOW + pid, "SIGKILL", host="vm", started=NOW) for pid in (1, 2)]
    assert [len(one.words) for one in attempts_of(alone)] == [1, 1]
