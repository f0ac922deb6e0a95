"""Training loops of several kinds as plans: data parallel, sharded, tensor parallel, mixture of experts, and others.

Times of kernels and of the threads' own work jitter by a few percent, and now and then by much more, as they do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.diagnosis.physics.pipeline import pipeline
from tests.diagnosis.physics.program import MS, UNEVEN, Collective, Host, Join, Line, LoopName, Plan, Sync
from tests.diagnosis.physics.writing import Writing, mesh

_BROADCAST = Line("broadcast_parameters", 30)
_GRADIENTS = Line("reduce_gradients", 50)
_LOSS = Line("log_loss", 60)
_NORM = Line("clip_gradients", 65)


def ddp(random: Random) -> Plan:
    """Buckets of gradients reduced beside the backward pass, the loss read now and then."""
    write = Writing(random, random.choice([2, 3, 4, 4, 8]))
    _begin(write)
    buckets, every = random.randint(1, 4), random.choice([1, 2, 5])
    for step in range(random.randint(3, 10)):
        write.host(2 * MS)
        write.kernel(6 * MS)
        _backward(write, buckets)
        if step % every == 0:
            write.same(Collective("0", "all_reduce", 1, _LOSS), Sync())
    return write.plan("ddp")


def steady(random: Random) -> Plan:
    """Steps of a third of a second, and the loss read in each: long enough to see who is always last."""
    write = Writing(random, random.choice([2, 4, 8]))
    for _ in range(random.randint(14, 20)):
        write.host(300 * MS)
        write.kernel(6 * MS)
        write.same(Collective("0", "all_reduce", 1, _LOSS), Sync())
    return write.plan("ddp")


def fsdp(random: Random) -> Plan:
    """Parameters gathered layer by layer ahead of their use, gradients scattered."""
    write = Writing(random, random.choice([2, 4, 8]))
    layers = random.randint(1, 3)
    gather, scatter = Line("unshard", 70), Line("reduce_scatter_gradients", 75)
    op = random.choice(["_allgather_base", "_allgather_base", UNEVEN])
    for _ in range(random.randint(3, 7)):
        write.host(1 * MS)
        for _ in range(2):
            for layer in range(layers):
                write.same(Collective("0", op, 4096 + layer, gather, "BFloat16"))
                write.kernel(3 * MS)
        for layer in range(layers):
            write.same(Collective("0", "_reduce_scatter_base", 4096 + layer, scatter, wait=False))
        write.same(Join())
        write.same(Collective("0", "all_reduce", 1, _NORM), Sync())
    return write.plan("fsdp")


def hsdp(random: Random) -> Plan:
    """Sharded within a host, replicated between hosts."""
    write = Writing(random, random.choice([4, 8]))
    shard, replicate = mesh(write, 2, "shard", "replicate")
    gather, scatter = Line("unshard", 70), Line("reduce_scatter_gradients", 75)
    for _ in range(random.randint(3, 8)):
        write.host(1 * MS)
        write.each(Collective("", "_allgather_base", 8192, gather, "BFloat16"), shard)
        write.kernel(5 * MS)
        write.each(Collective("", "_reduce_scatter_base", 8192, scatter, wait=False), shard)
        write.same(Join())
        write.each(Collective("", "all_reduce", 8192, _GRADIENTS, wait=False), replicate)
        write.same(Join())
        write.same(Collective("0", "all_reduce", 1, _NORM), Sync())
    return write.plan("hsdp")


def tp_dp(random: Random) -> Plan:
    """Layers split over some ranks, which wait for each other twice a layer; their gradients over the others."""
    write = Writing(random, random.choice([4, 4, 8, 8, 16]))
    tensor, data = mesh(write, random.choice([2, 2, write.world // 2]), "tp", "dp")
    layers = random.randint(1, 3)
    forward, backward = Line("layer_forward", 80), Line("layer_backward", 85)
    _begin(write)
    for _ in range(random.randint(2, 6)):
        write.host(1 * MS)
        for line in (forward, backward):
            for _ in range(layers):
                write.kernel(2 * MS)
                write.each(Collective("", "all_reduce", 65536, line, "BFloat16"), tensor)
        write.each(Collective("", "all_reduce", 1 << 20, _GRADIENTS, wait=False), data)
        write.same(Join())
        write.same(Collective("0", "all_reduce", 1, _NORM), Sync())
    return write.plan("tp_dp")


def moe(random: Random) -> Plan:
    """Tokens sent to the experts of a group and back, twice a layer."""
    write = Writing(random, random.choice([4, 8]))
    expert, data = mesh(write, random.choice([2, 4]), "ep", "edp")
    dispatch, combine = Line("dispatch_tokens", 90), Line("combine_tokens", 92)
    listed = random.random() < 0.5
    for _ in range(random.randint(3, 7)):
        write.host(1 * MS)
        for _ in range(2):
            write.kernel(2 * MS)
            write.each(Collective("", "all_to_all", 4096, dispatch, "BFloat16", listed=listed), expert)
            write.kernel(3 * MS)
            write.each(Collective("", "all_to_all", 4096, combine, "BFloat16", listed=listed), expert)
        write.each(Collective("", "all_reduce", 1 << 20, _GRADIENTS, wait=False), data)
        _backward(write, 1)
    return write.plan("moe")


def ring(random: Random) -> Plan:
    """Context parallelism: keys and values go round a ring while attention is computed."""
    write = Writing(random, random.choice([4, 8]))
    context, _ = mesh(write, 4, "cp", "dp")
    around = Line("ring_attention", 95)
    for _ in range(random.randint(3, 6)):
        write.host(1 * MS)
        for _ in range(3):
            write.call(lambda rank: write.shift(context[rank], rank, 1 << 18, around))
            write.kernel(2 * MS)
        _backward(write, random.randint(1, 2))
        write.same(Collective("0", "all_reduce", 1, _LOSS), Sync())
    return write.plan("ring")


def evaluation(random: Random) -> Plan:
    """Data parallel, and every few steps rank 0 evaluates or saves while the others wait in a barrier."""
    write = Writing(random, random.choice([2, 4, 8]))
    barrier = Line("wait_for_evaluation", 99)
    _begin(write)
    for step in range(random.randint(4, 9)):
        write.host(2 * MS)
        write.kernel(6 * MS)
        _backward(write, 2)
        if step % 3 == 2:
            write.same(Sync())
            write.of(0, Host(random.choice([20, 200, 2000]) * MS))
            write.same(Collective("0", "barrier", 0, barrier), Sync())
    return write.plan("evaluation")


def rollout(random: Random) -> Plan:
    """Rank 0 generates, everybody trains: what rank 0 made is broadcast, rewards are gathered."""
    write = Writing(random, random.choice([2, 4, 8]))
    given, taken = Line("receive_rollout", 101), Line("gather_rewards", 105)
    for _ in range(random.randint(3, 8)):
        write.of(0, Host(random.choice([10, 50, 400]) * MS))
        write.same(Collective("0", "broadcast", 1024, given, "Long"), Sync())
        write.kernel(8 * MS)
        _backward(write, random.randint(1, 3))
        write.same(Collective("0", "gather", 64, taken), Sync())
    return write.plan("rollout")


def _begin(write: Writing) -> None:
    """Give all ranks rank 0's parameters, and meet."""
    for at in range(write.random.choice([0, 2, 20])):
        write.same(Collective("0", "broadcast", 1024 + at % 3, _BROADCAST))
    write.same(Collective("0", "barrier", 0, Line("start", 20)), Sync())


def _backward(write: Writing, buckets: int) -> None:
    for at in range(buckets):
        write.kernel(3 * MS)
        write.same(Collective("0", "all_reduce", 100_000 + at, _GRADIENTS, wait=False))
    write.same(Join())


LOOPS: dict[LoopName, Callable[[Random], Plan]] = {
    "ddp": ddp,
    "fsdp": fsdp,
    "hsdp": hsdp,
    "tp_dp": tp_dp,
    "pipeline": pipeline,
    "moe": moe,
    "ring": ring,
    "evaluation": evaluation,
    "rollout": rollout,
}
