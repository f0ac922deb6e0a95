"""The next step after a diagnosis: commands that can be pasted, with the process or the files that they are about."""

from __future__ import annotations

from tests.diagnosis.rows import WORLD, groups, look, of, started, told_by_worker
from torchctl.diagnosis.evidence import Place
from torchctl.diagnosis.model import Diagnosis
from torchctl.render.nextstep import Files, next_step

EIGHT = groups(w=range(8), a=range(4))
WAITS = [of("a", 1), started("a", 2)]


def lost(*ranks: int) -> Diagnosis:
    """Return the diagnosis of a job in which these ranks of a group of four are lost, and the others wait."""
    there = {rank: WAITS for rank in range(4) if rank not in ranks}
    found = look(there, EIGHT, failed=dict.fromkeys(ranks, "refused the connection"))
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("rank_lost", ranks)]
    return found


def test_a_lost_rank_of_a_live_job_is_examined_by_its_pid_on_its_host() -> None:
    assert next_step(lost(3), {3: Place("node7", 4711)}, None) == "`torchctl doctor 4711` on node7"
    assert next_step(lost(3), {3: Place(None, 4711)}, None) == "`torchctl doctor 4711`"


def test_of_a_lost_rank_that_left_no_pid_the_host_is_named() -> None:
    assert next_step(lost(3), {3: Place("node7")}, None) == "the log of rank 3, node7"
    assert next_step(lost(3), {}, None) == "`torchctl ps --ranks 3`; the log and the host of rank 3"
    unfound = lost(3)
    unfound.failed.clear()  # `ps` would not find it either
    assert next_step(unfound, {}, None) == "the log and the host of rank 3"


def test_of_a_rank_lost_in_files_no_live_worker_is_asked() -> None:
    files = Files({0: "d/trace_0"}, ())
    assert next_step(lost(3), {3: Place("node7", 4711)}, files) == "the log of rank 3, node7, pid 4711"
    assert next_step(lost(3), {}, files) == "the log and the host of rank 3"


def test_files_are_named_in_commands_that_a_shell_reads_back() -> None:
    found = look({0: WAITS, 1: WAITS, 3: WAITS, 2: WAITS[:1]}, EIGHT)
    assert found.findings[0].culprit_ranks == (2,)
    dumps = {rank: f"a b/trace_{rank}" for rank in range(4)}
    assert next_step(found, {}, Files(dumps, ["a b", "c"])) == (
        "`torchctl nccl-trace 'a b/trace_2'` and `torchctl traceback 'a b' c`"
    )
    assert next_step(found, {}, Files({}, ["c"])) == "`torchctl traceback c`"
    assert next_step(found, {}, None) == "`torchctl traceback --ranks 2 --all-threads`"


def test_a_rank_that_no_worker_was_found_of_may_have_ended() -> None:
    config = groups(w=range(4))
    ended = {rank: [of("0", 1), of("0", 2)] for rank in range(3)}
    found = look(ended, config, moved=frozenset(), live=True, world_size=4)
    assert (found.healthy, found.missing) == (None, [3])
    assert next_step(found, {}, None) == "include the worker of rank 3, unless the log says that it ended"


def test_a_key_that_no_rank_is_seen_to_set_is_looked_for_in_the_store() -> None:
    waits = told_by_worker(
        [("/home/ada/train.py", 9, "plan")],
        [],
        {"call": "store.get", "kind": "store", "type": "torch.distributed.TCPStore", "keys": ["the plan"]},
    )
    rows = {rank: [of("0", 1)] for rank in range(4)}
    found = look(rows, WORLD, dict.fromkeys(range(4), waits), moved=frozenset(), live=True)
    step = "`torchctl store keys --store MASTER_ADDR:MASTER_PORT '*the plan*'` lists what is set"
    assert next_step(found, {}, None) == step
