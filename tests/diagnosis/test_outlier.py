"""Stacks alone: who is elsewhere, which calls cannot meet, and when nobody can be named."""

from __future__ import annotations

import pytest

from tests.diagnosis.rows import WORLD, Rows, look, of, only, stack, started
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence, Place, Process
from torchctl.diagnosis.model import Diagnosis
from torchctl.flightrec.table.loading import load_raw
from torchctl.stacks.stack import Stacks

TORCH = "/opt/lib/python3.11/site-packages/torch/"
SITE = "/opt/lib/python3.11/site-packages/"
C10D = f"{TORCH}distributed/distributed_c10d.py"
MAIN = ("/job/train.py", 90, "main"), ("/job/train.py", 99, "<module>")


def calling(call: str, line: int = 40, function: str = "step") -> Stacks:
    return stack(
        (C10D, 3000, call),
        (f"{TORCH}distributed/c10d_logger.py", 83, "wrapper"),
        ("/job/train.py", line, function),
        *MAIN,
    )


def backward() -> Stacks:
    frames = (f"{TORCH}autograd/graph.py", 824, "_engine_run_backward"), (f"{TORCH}_tensor.py", 648, "backward")
    return stack(*frames, ("/job/train.py", 41, "step"), *MAIN)


def gathering() -> Stacks:
    """A library's collective, of which torch.distributed's frames do not show."""
    return stack(
        (f"{SITE}deepspeed/runtime/zero/partition.py", 1254, "all_gather_coalesced"),
        ("/job/train.py", 39, "step"),
        *MAIN,
    )


def loading(line: int = 17) -> Stacks:
    return stack(("/opt/lib/python3.11/queue.py", 171, "get"), ("/job/data.py", line, "next_batch"), *MAIN)


def computing(line: int) -> Stacks:
    return stack(("/job/model.py", line, "forward"), *MAIN)


def nameless(*stacks: Stacks) -> Diagnosis:
    """Diagnose processes of one host of which nothing says the rank."""
    processes = [
        Process(f"node1 pid {4000 + number}", one, "node1", 4000 + number) for number, one in enumerate(stacks)
    ]
    return diagnose(Evidence(load_raw([]), processes=processes))


def ranked(*stacks: Stacks) -> Diagnosis:
    return look({}, {}, dict(enumerate(stacks)))


def test_the_process_outside_of_the_call_is_named_by_host_and_pid() -> None:
    found = only(nameless(calling("all_reduce"), loading(), calling("all_reduce"), calling("all_reduce")))
    assert (found.kind, found.confidence, found.culprit_ranks, found.waiting_ranks) == (
        "stack_outlier",
        "likely",
        (),
        (),
    )
    assert [one.as_dict() for one in found.culprit_processes] == [
        {"name": "node1 pid 4001", "host": "node1", "pid": 4001}
    ]
    assert [one.pid for one in found.waiting_processes] == [4000, 4002, 4003]
    assert found.summary == (
        "node1 pid 4001 is in next_batch, /job/data.py:17, while node1 pid 4000, node1 pid 4002, node1 pid 4003 are in"
        " all_reduce, called in step, /job/train.py:40"
    )
    assert found.location is not None
    assert (found.location.rank, found.location.who, found.location.line) == (None, "node1 pid 4001", 17)
    assert "the stacks diverge below main, /job/train.py:90" in found.evidence
    assert found.evidence[-1].startswith("the stacks are of one moment: ")


@pytest.mark.parametrize("waits", [backward, gathering])
def test_ranks_in_backward_or_in_a_librarys_collective_wait_too(waits: object) -> None:
    assert callable(waits)
    found = only(ranked(waits(), waits(), loading(), waits()))
    assert (found.kind, found.confidence, found.culprit_ranks, found.waiting_ranks) == (
        "stack_outlier",
        "likely",
        (2,),
        (0, 1, 3),
    )


def test_the_one_in_another_collective_is_named_as_a_mismatch_and_never_certain() -> None:
    found = only(ranked(calling("all_gather", 30), *[calling("broadcast")] * 3))
    assert (found.kind, found.confidence, found.culprit_ranks, found.waiting_ranks) == (
        "op_mismatch",
        "likely",
        (0,),
        (1, 2, 3),
    )
    assert found.summary.endswith(": these calls cannot meet")
    assert only(ranked(calling("all_gather"), *[calling("broadcast")] * 2)).confidence == "possible"


def test_the_one_in_another_layers_collective_is_an_outlier() -> None:
    found = only(nameless(*[calling("all_gather_into_tensor", 60)] * 5, calling("all_gather_into_tensor", 72)))
    assert (found.kind, [one.pid for one in found.culprit_processes]) == ("stack_outlier", [4005])


@pytest.mark.parametrize("look_at", [nameless, ranked])
def test_two_calls_that_cannot_meet_name_nobody(look_at: object) -> None:
    assert callable(look_at)
    for first, second in (("broadcast", "recv"), ("all_gather", "broadcast")):
        found = look_at(calling(first), calling(first), calling(second, 55), calling(second, 55))
        assert (found.healthy, found.findings) == (None, [])
        assert f"{first}, called in step, /job/train.py:40" in found.verdict
        assert f"{second}, called in step, /job/train.py:55: these calls cannot meet" in found.verdict


def test_a_rank_alone_in_a_recv_may_be_a_victim() -> None:
    assert ranked(*[calling("all_reduce")] * 4, calling("recv")).findings == []


def test_all_in_one_call_is_said_with_what_is_next() -> None:
    for found in (nameless(*[calling("all_reduce")] * 8), ranked(*[calling("all_reduce")] * 8)):
        assert (found.healthy, found.findings) == (None, [])
        assert found.unknown == [
            "all 8 stacks are in all_reduce, called in step, /job/train.py:40: none of these is elsewhere, so what they"
            " wait for is the device, the network, or a rank whose stack is not among them"
        ]


@pytest.mark.parametrize(
    "stacks",
    [
        [calling("all_reduce"), *[loading()] * 6],  # it is the one that waits
        [computing(1), computing(2), computing(3), computing(4)],
        [*[loading()] * 3, computing(5)],  # all in their own code: a healthy job looks like this
        [*[calling("recv")] * 3, loading(), computing(4)],  # which of the two they wait for is not known
        [*[calling("all_reduce")] * 4, loading(), computing(1), computing(2), computing(3)],
    ],
)
def test_where_no_one_stands_out_nobody_is_named(stacks: list[Stacks]) -> None:
    found = nameless(*stacks)
    assert (found.healthy, found.findings) == (None, [])
    assert " is in " in found.verdict or " are in " in found.verdict


def test_one_stack_alone_shows_nothing() -> None:
    assert nameless(loading()).healthy is None


def test_a_debuggers_prompt_is_named_in_the_sentence() -> None:
    prompt = stack(
        ("/usr/lib/python3.11/cmd.py", 126, "cmdloop"), ("/usr/lib/python3.11/pdb.py", 365, "interaction"), *MAIN
    )
    found = only(nameless(*[calling("barrier")] * 3, prompt))
    assert found.summary.endswith("; node1 pid 4003 is at a debugger's prompt (pdb)")


def test_where_entries_prove_more_stacks_without_ranks_only_add_to_it() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(3)} | {3: [of("0", 1)]}
    inside = calling("all_reduce")
    processes = [
        Process(f"n pid {number}", loading() if number == 5 else inside, "n", number) for number in range(2, 6)
    ]
    found = only(look(rows, WORLD, processes=processes))
    assert (found.kind, found.culprit_ranks, found.culprit_processes) == ("not_entered", (3,), ())
    assert found.evidence[-1] == (
        "of the 4 processes whose rank is not known, n pid 5 is elsewhere than the others: in next_batch,"
        " /job/data.py:17"
    )
    both = [Process(one.name, loading(), one.host, one.pid) if one.pid in (4, 5) else one for one in processes]
    assert not any("whose rank is not known" in fact for fact in only(look(rows, WORLD, processes=both)).evidence)


def test_a_rank_and_its_process_are_not_counted_twice() -> None:
    stacks = {rank: calling("all_reduce") for rank in range(3)}
    evidence = Evidence(load_raw([]), stacks, processes=[Process("n pid 7", calling("all_reduce"), "n", 7)])
    evidence.places[2] = Place("n", 7)
    assert diagnose(evidence).unknown[0].startswith("all 3 stacks are in all_reduce")


def test_a_process_without_a_python_frame_is_not_forgotten() -> None:
    bare = stack()
    found = only(nameless(*[calling("barrier")] * 3, bare))
    assert found.summary.startswith("node1 pid 4003 is in code without a Python frame, while ")
    assert [one.pid for one in found.culprit_processes] == [4003]
