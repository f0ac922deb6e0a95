"""What `diagnose` must say of each scenario: the table that the live tests go through."""

from __future__ import annotations

from dataclasses import dataclass, field

Ranks = list[int]


@dataclass(frozen=True)
class Fault:
    """One root cause.

    Attributes:
        kinds: of a finding that are right for it.
        culprits: the ranks to be named.
        waiting: the ranks that wait for it; None if any list is right.
    """

    kinds: tuple[str, ...]
    culprits: Ranks
    waiting: Ranks | None = None


@dataclass(frozen=True)
class Truth:
    """What is right to say of one scenario.

    Attributes:
        ranks: how many run.
        faults: what is wrong, the first that the verdict names first; none for a healthy job.
        or_cannot_tell: whether the evidence leaves it open, so that naming nobody is right too.
        only_cannot_tell: whether neither a name nor "nothing is wrong" is right.
        environment: the ranks' further variables.
        imports: the modules that the ranks have imported at their start.
        restless: whether threads beside the ranks' own go on working.
        in_one_look: whether one look, a minute after the job has come to a standstill, shows the fault as well.
        ended: whether all ranks share an end, which files show to be one.
    """

    ranks: int
    faults: list[Fault] = field(default_factory=list)
    or_cannot_tell: bool = False
    only_cannot_tell: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    restless: bool = False
    in_one_look: bool = True
    ended: bool = False

    @property
    def waiters(self) -> Ranks:
        """The ranks whose processes come to rest in what they wait for."""
        return [] if self.restless else sorted({rank for fault in self.faults for rank in fault.waiting or []})


def late(*culprits: int, waiting: Ranks | None = None) -> Fault:
    """Ranks that have not entered what the others are in."""
    return Fault(("not_entered",), list(culprits), waiting)


def lost(culprit: int, waiting: Ranks | None = None) -> Fault:
    return Fault(("rank_lost",), [culprit], waiting)


def mismatch(kind: str, *culprits: int, waiting: Ranks | None = None) -> Fault:
    return Fault((f"{kind}_mismatch",), list(culprits), waiting)


_DETAIL = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
_CHECKPOINT = ("torch.distributed.checkpoint",)
_PIPELINING = ("torch.distributed.pipelining",)
_TENSOR = ("torch.distributed.tensor",)

TRUTHS = {
    # own_code
    "sleep": Truth(4, [late(2, waiting=[0, 1, 3])]),
    "loop": Truth(4, [late(1, waiting=[0, 2, 3])]),
    "lock": Truth(4, [late(0, waiting=[1, 2, 3])]),
    "file": Truth(4, [late(3, waiting=[0, 1, 2])]),
    "from_queue": Truth(4, [late(1, waiting=[0, 2, 3])]),
    "child_process": Truth(3, [late(2, waiting=[0, 1])]),
    "branch": Truth(3, [late(1, waiting=[0, 2])]),
    "barrier_missed": Truth(3, [late(0, waiting=[1, 2])]),
    "monitored": Truth(3, [late(2, waiting=[0, 1])]),
    "file_lock": Truth(3, only_cannot_tell=True),
    "lock_beside_a_heartbeat": Truth(3, only_cannot_tell=True, restless=True),
    "stopped": Truth(3, [lost(1, [0, 2])]),
    "killed": Truth(3, [lost(1)]),
    "early_exit": Truth(3, [lost(1)]),
    "straggler": Truth(4, [Fault(("straggler",), [2])], in_one_look=False),
    "slow_reader": Truth(4, [Fault(("straggler",), [3])], in_one_look=False),
    "two_faults": Truth(5, [late(3, waiting=[2, 4]), late(0, waiting=[1])]),
    "sleep_detail": Truth(4, [late(2, waiting=[0, 1, 3])], environment=_DETAIL),
    # groups
    "opposite_order": Truth(4, [Fault(("order_cycle",), [0, 1], [2, 3])]),
    "circle": Truth(3, [Fault(("order_cycle",), [], [0, 1, 2])]),
    "mesh": Truth(8, [late(5, waiting=[0, 1, 2, 3, 4, 6, 7])]),
    "outsider_sleeps": Truth(4, [late(3, waiting=[0, 1])]),
    "monitored_in_a_group": Truth(4, [late(1, waiting=[0, 2])]),
    "broadcast_roots_differ": Truth(4, [mismatch("op")], in_one_look=False),
    "one_gather_root_differs": Truth(4, [mismatch("op")]),
    "scatter_roots_differ": Truth(4, [mismatch("op")]),
    "reduce_roots_differ": Truth(4, [mismatch("op")]),
    "broadcast_without_its_root": Truth(4, [late(0, waiting=[1, 2, 3])]),
    "root_went_on": Truth(4, [late(3, waiting=[0, 1, 2])]),
    "member_makes_no_group": Truth(3, [late(2, waiting=[0, 1])], environment={"TORCH_DIST_INIT_BARRIER": "1"}),
    "survivors_retry": Truth(4, [late(2)], or_cannot_tell=True, environment={"TIMEOUT_S": "3"}),
    "extra_barrier": Truth(4, [mismatch("op", 0)], or_cannot_tell=True),
    "skipped_step": Truth(4, [mismatch("op", 2, waiting=[0, 1, 3])]),
    "wrong_op": Truth(4, [mismatch("op", 1)]),
    "wrong_shape": Truth(4, [mismatch("shape", 3)]),
    "wrong_dtype": Truth(4, [mismatch("dtype", 0)]),
    "objects": Truth(3, [late(1)]),
    "one_receives": Truth(4, [late(0, waiting=[1])]),
    "sleep_in_one_of_two": Truth(4, [late(3, waiting=[0, 1, 2])], environment=_DETAIL),
    # p2p
    "pipeline": Truth(4, [Fault(("p2p_mismatch", "not_entered"), [1], [0, 2, 3])]),
    "megatron": Truth(4, [Fault(("p2p_mismatch", "not_entered"), [2])], or_cannot_tell=True),
    "irecv_waits": Truth(3, [Fault(("p2p_mismatch", "not_entered"), [2])], or_cannot_tell=True),
    "wrong_tag": Truth(4, [mismatch("p2p", 0, 1)]),
    "wrong_source": Truth(4, only_cannot_tell=True),
    "ring_of_receives": Truth(4, [mismatch("p2p", waiting=[0, 1, 2, 3])]),
    # threads
    "side_thread_waits": Truth(4, [late(2)]),
    "side_thread_alone": Truth(3, [late(1)]),
    "helper_waits": Truth(4, [late(3, waiting=[0, 1, 2])]),
    "work_on_a_helper": Truth(4, [late(1, waiting=[0, 2, 3])]),
    "polls_for_a_helper": Truth(4, [late(2, waiting=[0, 1, 3])]),
    "heartbeat": Truth(4, [late(2, waiting=[0, 1, 3])], restless=True),
    "evaluation_moves": Truth(4, [late(1, waiting=[0])]),
    # stores
    "absent_key": Truth(4, [late(0, waiting=[1, 2, 3])]),
    "key_of_nobody": Truth(3, only_cannot_tell=True),
    "one_waits_at_the_store": Truth(4, [late(1, waiting=[0, 2, 3])]),
    "key_of_a_rank": Truth(4, [late(2, waiting=[0])]),
    "elastic_barrier": Truth(4, [late(2, waiting=[0, 1, 3])]),
    "barrier_of_two": Truth(4, only_cannot_tell=True),
    "exchange": Truth(3, [late(1, waiting=[0, 2])]),
    "silent_pipe": Truth(3, only_cannot_tell=True),
    # ends
    "missing_at_the_start": Truth(3, [late(2, waiting=[0, 1])]),
    "teardown": Truth(3, [Fault(("not_entered", "rank_lost"), [1])], or_cannot_tell=True),
    "at_exit": Truth(3, [late(1, waiting=[0, 2])]),
    "thread_outlives_main": Truth(4, [late(3, waiting=[0, 1, 2])]),
    "one_step_more": Truth(4, [late(waiting=[0])]),
    # libraries
    "ddp": Truth(4, [late(1, waiting=[0, 2, 3])]),
    "zero": Truth(4, [late(2)], imports=("torch.distributed.optim",)),
    "fsdp2": Truth(4, [late(3, waiting=[0, 1, 2])], imports=("torch.distributed.fsdp", *_TENSOR)),
    "dtensor": Truth(3, [late(1, waiting=[0, 2])], imports=_TENSOR),
    "checkpoint": Truth(3, [late(2, waiting=[0, 1])], imports=_CHECKPOINT),
    "asynchronous_checkpoint": Truth(3, [late(1)], or_cannot_tell=True, imports=_CHECKPOINT),
    "pipelining": Truth(4, [Fault(("p2p_mismatch", "not_entered"), [2])], or_cannot_tell=True, imports=_PIPELINING),
    "remote_call": Truth(3, [late(2)], or_cannot_tell=True, imports=("torch.distributed.rpc",)),
    # healthy
    "healthy_mid": Truth(4),
    "healthy_mid_detail": Truth(4, environment=_DETAIL),
    "two_groups_move": Truth(4, environment=_DETAIL),
    "healthy_end": Truth(4, only_cannot_tell=True, ended=True),
    "evaluation": Truth(4, or_cannot_tell=True),
    "rollout": Truth(4, or_cannot_tell=True),
    "sends_only": Truth(3, or_cannot_tell=True),
    "no_collective": Truth(3, or_cannot_tell=True),
    "slow_batches": Truth(4),
    "some_have_ended": Truth(4),
    "rank0_logs": Truth(4, or_cannot_tell=True),
    "store_heartbeats": Truth(4),
    "checkpoints": Truth(3, imports=_CHECKPOINT),
    "micro_batches": Truth(4, or_cannot_tell=True, imports=_PIPELINING),
    "uneven_inputs": Truth(3),
    "remote_calls": Truth(3, or_cannot_tell=True, imports=("torch.distributed.rpc",)),
}
