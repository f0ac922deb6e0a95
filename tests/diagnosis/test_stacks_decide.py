"""Where the record is silent, as gloo's, stacks decide, and names of the user's own code never do."""

from __future__ import annotations

from dataclasses import replace

from tests.diagnosis.rows import (
    TORCH_FILE,
    WORLD,
    Rows,
    elsewhere,
    gloo,
    groups,
    inside,
    look,
    of,
    only,
    stack,
    started,
    told,
)
from torchctl.diagnosis.evidence import Unread
from torchctl.diagnosis.model import Diagnosis
from torchctl.stacks.stack import Stacks


def test_a_member_that_gloo_never_shows_is_found_by_its_stack() -> None:
    config = {"": {"name": "", "desc": "", "ranks": "[]"}}
    rows: dict[int, Rows] = {rank: [gloo("0", 1)] for rank in range(3)}
    rows[0] = [*rows[0], gloo("1", 1, done=False)]
    rows[1] = [*rows[1], gloo("1", 1, done=False)]
    stacks = {0: inside("all_reduce"), 1: inside("all_reduce"), 2: elsewhere()}
    assert told(look(rows, config, stacks)) == [("not_entered", (2,), (0, 1))]


def test_a_rank_that_may_be_no_member_is_not_accused() -> None:
    rows: dict[int, Rows] = {0: [of("0", 1), started("x", 1)], 1: [of("0", 1), started("x", 1)], 2: [of("0", 1)]}
    found = look(rows, {})
    assert (found.healthy, found.findings) == (None, [])
    assert "the members of group x are not known" in found.verdict


def test_a_gap_in_the_ranks_tells_of_a_member_of_the_default_group() -> None:
    config = {"": {"name": "", "desc": "", "ranks": "[]"}}
    default = {"process_group": ("0", "default_pg")}
    rows = {rank: [gloo("0", 1) | default, gloo("0", 2, done=False) | default] for rank in (0, 1, 3)}
    assert told(look(rows, config)) == [("rank_lost", (2,), (0, 1, 3))]


def test_stacks_alone_name_the_rank_outside_and_its_line() -> None:
    stacks = {0: inside("monitored_barrier"), 1: elsewhere(), 2: inside("monitored_barrier")}
    found = only(look({}, {}, stacks))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("not_entered", (1,), (0, 2))
    assert found.location is not None
    assert (found.location.file, found.location.line, found.location.function) == ("/home/ada/load.py", 9, "batch")


def test_gloo_send_and_recv_show_in_stacks_only() -> None:
    stacks = {0: inside("send"), 1: elsewhere(), 2: inside("recv"), 3: inside("recv")}
    found = only(look({rank: [gloo("0", 1)] for rank in range(4)}, {}, stacks))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("p2p_mismatch", (1,), (0, 2, 3))


def test_where_gloo_hides_sends_several_missing_ranks_are_not_accused_without_their_stacks() -> None:
    """Of ranks 2 and 3 one may wait for the other in a recv: operation ids say that this job sends."""
    rows: dict[int, Rows] = {rank: [gloo("0", 1, op_id=4)] for rank in range(4)}
    for rank in (0, 1):
        rows[rank] = [*rows[rank], gloo("0", 2, done=False, op_id=5)]
    found = look(rows, WORLD)
    assert (found.healthy, found.findings) == (None, [])
    assert "ranks 2-3 have not entered" in found.verdict
    stacks = {0: inside("all_reduce"), 1: inside("all_reduce"), 2: inside("recv"), 3: elsewhere()}
    assert [(one.kind, one.culprit_ranks, one.waiting_ranks) for one in look(rows, WORLD, stacks).findings] == [
        ("not_entered", (3,), (0, 1, 2))
    ]


def test_a_rank_in_code_of_its_own_waits_for_no_launch_it_has_made() -> None:
    """Rank 0 has launched b and sits in a queue; rank 1 waits in a for it: no circle, rank 0 is the cause."""
    config = groups(a=[0, 1], b=[0, 1])
    rows: dict[int, Rows] = {0: [started("b", 1)], 1: [started("a", 1)]}
    stacks = {0: elsewhere(), 1: inside("all_reduce")}
    assert told(look(rows, config, stacks)) == [("not_entered", (0,), (1,))]


def test_names_of_the_users_change_nothing() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in (0, 1, 2)} | {3: [of("0", 1)]}
    verdicts = []
    for word in ("sleep", "all_reduce", "recv", "wait", "x"):
        stacks = {rank: inside("all_reduce") for rank in range(3)}
        stacks[3] = stack((f"/home/{word}/{word}.py", 3, word), (f"/home/{word}.py", 4, "<module>"))
        found = look(rows, WORLD, stacks)
        verdicts.append((told(found), [one.confidence for one in found.findings]))
    assert verdicts == [([("not_entered", (3,), (0, 1, 2))], ["likely"])] * 5


def test_a_wrapper_that_py_spy_names_in_full_is_no_operation() -> None:
    logger = "/opt/lib/python3.11/site-packages/torch/distributed/c10d_logger.py"
    wrapped = stack(
        (TORCH_FILE, 10, "monitored_barrier"),
        (logger, 83, "_exception_logger.<locals>.wrapper"),
        ("/home/ada/train.py", 7, "step"),
    )
    found = only(look({}, {}, {0: wrapped, 1: elsewhere(), 2: wrapped}))
    assert found.summary.startswith("rank 1 never entered monitored_barrier;")


def test_the_thread_that_trains_says_where_the_rank_is() -> None:
    """As in Ray Train: each main thread waits in the framework, and a thread of its own trains."""
    ray = "/opt/lib/python3.11/site-packages/ray/"
    served = (
        (f"{ray}_private/worker.py", 961, "main_loop"),
        (f"{ray}_private/workers/default_worker.py", 330, "<module>"),
    )
    session = (f"{ray}train/_internal/session.py", 210, "_start")
    stacks = {}
    for rank in range(3):
        trains = stack(("/home/ada/train.py", 52, "next_batch"), session) if rank == 1 else inside("all_reduce")
        (main,), (thread,) = stack(*served).threads, trains.threads
        stacks[rank] = Stacks((main, replace(thread, ident=2, name="Thread-3 (_start)", main=False)))
    found = only(look({}, {}, stacks))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("not_entered", (1,), (0, 2))
    assert found.location is not None
    assert (found.location.file, found.location.line) == ("/home/ada/train.py", 52)


def test_a_rank_at_a_debuggers_prompt_is_called_so() -> None:
    python = "/usr/lib/python3.11/"
    prompt = stack(
        (f"{python}cmd.py", 126, "cmdloop"),
        (f"{python}pdb.py", 330, "_cmdloop"),
        (f"{python}pdb.py", 365, "interaction"),
        (f"{python}bdb.py", 90, "trace_dispatch"),
        ("/home/ada/train.py", 9, "train_step"),
    )
    found = only(look({}, {}, {0: inside("all_reduce"), 1: prompt, 2: inside("all_reduce")}))
    assert found.summary == (
        "rank 1 never entered all_reduce; ranks 0,2 wait for it; rank 1 is at a debugger's prompt (pdb)"
    )
    assert "rank 1 is at a prompt of pdb, in train_step, /home/ada/train.py:9" in found.evidence


def test_what_holds_a_rank_without_a_dump_is_said_where_nobody_can_be_named() -> None:
    """Two ranks wait in a recv; of the other two, read from outside, either may be the one that they wait for."""
    held = "did not answer within 5s; its process 17: interpreter lock held"
    load = stack(("/home/ada/load.py", 9, "load"))
    stacks = {0: inside("recv"), 3: inside("recv"), 1: load, 2: load}
    rows = {rank: [gloo("0", 1)] for rank in (0, 3)}
    found = look(rows, {}, stacks, no_dump=dict.fromkeys((1, 2), held))
    assert (found.healthy, found.findings) == (None, [])
    assert found.unknown[1:] == [f"rank 1 left no dump: {held}", f"rank 2 left no dump: {held}"]


def test_a_rank_whose_stacks_cannot_be_read_is_missing_and_no_dump_is_said_to_lack_an_entry() -> None:
    stacks = {0: inside("all_reduce"), 1: inside("all_reduce"), 2: inside("all_reduce")}
    found = look({}, {}, stacks, unread=[Unread("traceback_rank_3.txt", 3, "has no stacks")])
    assert (found.seen, found.missing) == ([0, 1, 2], [3])
    assert found.verdict.startswith("Cannot tell: all 3 stacks are in all_reduce, ")
    assert found.verdict.endswith("or a rank whose stack is not among them.")
    assert "there is no data from rank 3: traceback_rank_3.txt has no stacks" in found.unknown


def waits_for(call: str) -> Diagnosis:
    """Diagnose a job in which rank 3 is in a call of torch.distributed, and the others wait for it in an all_reduce."""
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(3)} | {3: [of("0", 1)]}
    stacks = {rank: inside("all_reduce") for rank in range(3)} | {3: inside(call)}
    return look(rows, WORLD, stacks, moved=frozenset(), live=True)


def test_a_rank_that_takes_its_groups_down_has_left_the_others() -> None:
    found = only(waits_for("destroy_process_group"))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("not_entered", (3,), (0, 1, 2))
    assert found.evidence[-1] == "rank 3 is in destroy_process_group, called in step, /home/ada/train.py:7"


def test_a_rank_that_makes_a_group_while_the_others_work_waits_for_them_and_they_for_it() -> None:
    found = only(waits_for("new_group"))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (3,), (0, 1, 2))
    assert "rank 3 is in new_group" in found.evidence


def test_a_rank_inside_of_a_pipelines_step_is_not_said_to_be_outside() -> None:
    file = "/opt/lib/python3.11/site-packages/torch/distributed/pipelining/schedules.py"
    step = ((file, 600, "step"), ("/home/ada/train.py", 7, "train"))
    stacks = {rank: stack((file, 90, "_wait_batch_p2p"), *step) for rank in (0, 1)}
    stacks[2] = stack(("/opt/lib/python3.11/queue.py", 171, "get"), ("/home/ada/model.py", 9, "forward"), *step)
    found = only(look({rank: [gloo("0", 1)] for rank in range(3)}, {}, stacks, moved=frozenset(), live=True))
    assert found.culprit_ranks == (2,)
    assert found.summary == "rank 2 has not come to where the others wait in step; ranks 0-1 wait for it"
    assert found.evidence[-1] == "rank 2 is inside step, too, further out"


def test_a_remote_call_waits_for_no_rank_that_calls_nothing() -> None:
    file = "/opt/lib/python3.11/site-packages/torch/distributed/rpc/api.py"
    stacks = {0: stack((file, 800, "rpc_sync"), ("/home/ada/train.py", 7, "ask")), 1: elsewhere(), 2: elsewhere()}
    found = look({rank: [gloo("0", 1)] for rank in range(3)}, {}, stacks, moved=frozenset(), live=True)
    assert (found.healthy, found.findings) == (None, [])
    assert "rank 0 waits in rpc_sync for an answer" in found.verdict
