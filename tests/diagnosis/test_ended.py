"""Who ended first, by last words: each cause, each way to follow it, and when no rank may be named."""

from __future__ import annotations

from typing import Any

import pytest

from torchctl.diagnosis.deaths import Death, Role
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.findings.ended import by_last_words, from_deaths
from torchctl.diagnosis.model import Finding, Location
from torchctl.flightrec.table.loading import load_raw

NOW = 1_700_000_000.0
CLOSED = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5134"
TIMED_OUT = "[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"
STORE = "wait timeout after 300000ms, keys: /default_pg/0//0"
NCCL = "NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error, NCCL version 2.21.5"


def raised(rank: int, at: float, message: str = "no rows left", kind: str = "ValueError", **more: Any) -> Death:
    location = Location(rank, "/home/ada/train.py", 41, "main")
    known = {"host": "vm", "exit_code": 1, "location": location, **more}
    return Death(rank, 100 + rank, known.pop("host"), NOW + at, f"uncaught {kind}: {message}", kind, message, **known)


def lost(rank: int, at: float, message: str = CLOSED, kind: str = "RuntimeError", **more: Any) -> Death:
    return raised(rank, at, message, kind, **more)


def signalled(rank: int, at: float, signal: str = "SIGKILL", host: str = "vm", **more: Any) -> Death:
    return Death(rank, 100 + rank, host, NOW + at, signal, signal=signal, noticed=True, **more)


def ended(rank: int, at: float) -> Death:
    return Death(rank, 100 + rank, "vm", NOW + at, "exit code 0", exit_code=0, orderly=True)


def verdict(*deaths: Death, size: int | None = None, alive: tuple[int, ...] = ()) -> Finding:
    world = len(deaths) + len(alive) if size is None else size
    (found,) = from_deaths(deaths, world, alive)
    return found


def test_an_exception_is_the_cause_of_the_connections_that_others_lost() -> None:
    found = verdict(lost(0, 0.004), lost(1, 0.006), raised(2, 0.0), lost(3, 0.005))
    assert (found.kind, found.confidence, found.culprit_ranks, found.waiting_ranks) == (
        "failed",
        "likely",
        (2,),
        (0, 1, 3),
    )
    assert found.summary == (
        "rank 2 failed first: uncaught ValueError: no rows left (/home/ada/train.py:41); ranks 0-1,3 followed"
    )
    assert found.location is not None and found.location.line == 41
    assert found.evidence[0].startswith("rank 2: 2023-11-14 22:13:20.000 UTC, uncaught ValueError")
    assert found.evidence[1].startswith("ranks 0-1,3: 4ms to 6ms later, uncaught RuntimeError: ")


@pytest.mark.parametrize("message", [CLOSED, NCCL])
@pytest.mark.parametrize(
    ("signal", "kind", "says"), [("SIGKILL", "killed", "was killed"), ("SIGSEGV", "failed", "failed")]
)
def test_a_signal_that_is_noticed_after_others_lost_the_rank_is_the_cause(
    message: str, signal: str, kind: str, says: str
) -> None:
    found = verdict(lost(0, 0.0, message), signalled(1, 0.05, signal), lost(2, 0.001, message, "DistBackendError"))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == (kind, (1,), (0, 2))
    assert found.summary == f"rank 1 {says} first: {signal}; ranks 0,2 followed"


def test_who_exits_since_it_has_lost_another_only_followed() -> None:
    """`except RuntimeError: sys.exit(1)`, or an exception of the user's own, raised from torch's."""
    for exception in ("", "TrainingError"):
        death = raised(0, 0.0, "step failed", exception, handled=(("RuntimeError", CLOSED),))
        assert death.role is Role.LOST
        assert verdict(death, signalled(1, 0.3)).culprit_ranks == (1,)


def test_a_busy_host_notices_a_kill_late() -> None:
    found = verdict(lost(0, 0.0), signalled(1, 0.6), lost(2, 0.4))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("killed", (1,), (0, 2))
    assert verdict(lost(0, 0.0), signalled(1, 3.0), lost(2, 0.4)).culprit_ranks == ()


def test_the_launchers_signals_follow() -> None:
    found = verdict(raised(3, 0.0), *(signalled(rank, 0.2, "SIGTERM") for rank in range(3)))
    assert (found.kind, found.culprit_ranks) == ("failed", (3,))


def test_the_exit_code_is_a_cause_too() -> None:
    death = Death(1, 101, "vm", NOW, "exit code 3", exit_code=3)
    found = verdict(death, lost(0, 0.01))
    assert (found.kind, found.summary) == ("failed", "rank 1 failed first: exit code 3; rank 0 followed")


@pytest.mark.parametrize(
    "death",
    [
        signalled(1, 0.0, killed_for_memory=True),
        raised(1, 0.0, "CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemoryError"),
        raised(1, 0.0, "CUDA out of memory. Tried to allocate 2.00 GiB", "RuntimeError"),
        raised(1, 0.0, "", "MemoryError"),
    ],
)
def test_memory_that_ran_out_is_a_kind_of_its_own(death: Death) -> None:
    found = verdict(death, lost(0, 0.01))
    assert (found.kind, found.culprit_ranks) == ("out_of_memory", (1,))
    assert found.summary.startswith("rank 1 ran out of memory first: ")


def test_an_orderly_end_before_the_others_lost_it_is_the_cause() -> None:
    found = verdict(ended(2, 0.0), lost(0, 0.01), lost(1, 0.02))
    assert (found.kind, found.confidence, found.culprit_ranks) == ("rank_lost", "likely", (2,))
    assert found.summary.startswith("rank 2 ended with exit code 0 while others still needed it; ranks 0-1 followed: ")


def test_of_a_majority_that_ended_orderly_no_rank_is_named() -> None:
    found = verdict(ended(0, 0.0), ended(1, 0.0), lost(2, 0.01))
    assert (found.kind, found.confidence, found.culprit_ranks) == ("rank_lost", "possible", ())


def test_an_orderly_end_does_not_explain_an_exception_of_another_kind() -> None:
    found = verdict(ended(2, 0.0), raised(0, 30.0), lost(1, 30.01))
    assert (found.kind, found.culprit_ranks) == ("failed", (0,))
    assert any("exit code 0" in fact and "30s before the first death" in fact for fact in found.evidence)


def test_two_deaths_on_one_host_are_ordered_by_their_milliseconds() -> None:
    assert verdict(raised(0, 0.010), raised(1, 0.0, "other", "KeyError")).culprit_ranks == (1,)
    both = verdict(raised(0, 0.0004), raised(1, 0.0, "other", "KeyError"))
    assert (both.culprit_ranks, both.confidence) == ((0, 1), "possible")
    assert "too close together" in both.summary and "KeyError" in both.summary and "ValueError" in both.summary


def test_two_deaths_on_two_hosts_are_ordered_only_beyond_a_second() -> None:
    assert verdict(raised(0, 0.9), raised(1, 0.0, "other", "KeyError", host="b")).culprit_ranks == (0, 1)
    assert verdict(raised(0, 1.2), raised(1, 0.0, "other", "KeyError", host="b")).culprit_ranks == (1,)


def test_a_death_that_a_sentinel_noticed_may_be_the_earlier_one() -> None:
    assert verdict(raised(0, 0.0), signalled(1, 0.05, "SIGSEGV")).culprit_ranks == (0, 1)
    assert verdict(raised(0, 0.0), signalled(1, 0.2, "SIGSEGV")).culprit_ranks == (0,)


def test_one_mistake_that_all_ranks_make_is_one_cause() -> None:
    found = verdict(*(raised(rank, rank / 4000) for rank in range(4)))
    assert (found.culprit_ranks, found.confidence) == ((0, 1, 2, 3), "likely")
    assert found.summary.startswith("ranks 0-3 failed together: uncaught ValueError")


@pytest.mark.parametrize(
    ("deaths", "says"),
    [
        ([lost(0, 0.0), lost(1, 0.0005)], "ranks 0-1 lost a connection to another rank first"),
        ([lost(0, 0.0, TIMED_OUT), lost(1, 0.2)], "rank 0 gave up waiting first"),
        ([lost(0, 0.0, STORE, "DistStoreError"), lost(1, 0.2)], "rank 0 gave up waiting first"),
        ([signalled(0, 0.0, "SIGABRT"), lost(1, 0.2)], "rank 0 ended first, by SIGABRT: of a watchdog's timeout"),
        ([signalled(0, 0.0, "SIGTERM"), lost(1, 0.0)], "rank 1 lost a connection"),
        ([signalled(0, 0.0, "SIGTERM"), signalled(1, 0.01, "SIGTERM")], "ranks 0-1 were stopped from outside"),
        ([signalled(0, 0.0), signalled(1, 0.01)], "ranks 0-1 were stopped from outside within 10ms, by SIGKILL"),
        ([lost(0, 0.0), raised(1, 10.0)], "rank 0 lost a connection to another rank first"),
    ],
)
def test_no_rank_is_named_if_the_first_death_had_its_cause_elsewhere(deaths: list[Death], says: str) -> None:
    found = verdict(*deaths, size=3)
    assert (found.culprit_ranks, found.confidence) == ((), "possible")
    assert found.summary.startswith(says)
    assert found.evidence[-1] == "there is no last word of rank 2"


def test_one_rank_that_was_stopped_alone_is_named_if_no_other_is_missing() -> None:
    deaths = (signalled(0, 0.05, "SIGTERM"), lost(1, 0.0), lost(2, 0.0))
    assert verdict(*deaths).culprit_ranks == (0,)
    assert verdict(*deaths, size=4).culprit_ranks == ()
    assert verdict(*deaths, size=4, alive=(3,)).culprit_ranks == (0,)


def test_a_rank_without_a_last_word_makes_it_less_certain() -> None:
    assert verdict(raised(0, 0.0), lost(1, 0.1), size=2).confidence == "likely"
    assert verdict(raised(0, 0.0), lost(1, 0.1), size=8).confidence == "possible"


def test_orderly_ends_alone_are_no_finding() -> None:
    assert from_deaths([ended(0, 0.0), ended(1, 9.0)], 2, ()) == []


@pytest.mark.parametrize("kind", ["ConnectionResetError", "OSError", "ReadTimeout"])
def test_a_connection_that_is_not_torchs_is_the_ranks_own_cause(kind: str) -> None:
    assert raised(0, 0.0, "Connection reset by peer", kind).role is Role.OWN


def test_logs_and_last_words_that_agree_are_one_finding_and_else_neither_is_sure() -> None:
    deaths = [raised(2, 0.0), lost(0, 0.01), lost(1, 0.01)]
    evidence = Evidence(load_raw([]), deaths=deaths, world_size=3)
    same = Finding("failed", "likely", "rank 2 raised ValueError", (2,))
    assert by_last_words(evidence, [same]) == []
    assert (same.confidence, same.waiting_ranks) == ("likely", (0, 1))
    assert same.evidence[-1].startswith("last word of rank 2: 2023-11-14 22:13:20.000 UTC, uncaught ValueError")
    other = Finding("failed", "likely", "rank 1 raised KeyError", (1,))
    by_last_words(evidence, [other])
    assert other.confidence == "possible"
    assert other.evidence[-1].startswith("by the last words, rank 2 failed first: uncaught ValueError")


def test_of_several_lost_ranks_only_the_first_to_end_is_to_blame() -> None:
    evidence = Evidence(load_raw([]), deaths=[raised(2, 0.0), lost(0, 0.01)], world_size=4)
    summary = "ranks 0,2 are lost: rank 0: died; ranks 1,3 wait in all_reduce (sequence id 5 of group 0)"
    found = Finding("rank_lost", "likely", summary, (0, 2), (1, 3))
    by_last_words(evidence, [found])
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("rank_lost", (2,), (0, 1, 3))
    assert found.location is not None and found.location.line == 41
    assert found.summary.startswith("rank 2 failed first: uncaught ValueError: no rows left (/home/ada/train.py:41)")
    assert found.summary.endswith("; ranks 1,3 wait in all_reduce (sequence id 5 of group 0)")
