"""torch's own libraries above the collectives: each imports what it needs, which the nursery has imported already."""

import os
import time

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.live.scenarios.common import FOLDER, RANK, WORLD, block, mark, step, warm_up


def ddp() -> None:
    """Rank 1 finds its loss to be NaN and leaves the backward out, and with it DDP's all_reduce."""
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    for number in range(3):
        loss = model(torch.ones(2, 4)).sum()
        if number == 2:
            mark()
            if RANK == 1:
                block()
        loss.backward()


def zero() -> None:
    """Rank 2 never comes to the optimizer's step, in which each shard's owner broadcasts its parameters."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    for number in range(3):
        model(torch.ones(2, 4)).sum().backward()
        if number == 2:
            mark()
            if RANK == 2:
                block()
        optimizer.step()
    step()


def fsdp2() -> None:
    """Rank 3 never comes to the third forward, which gathers the parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    for number in range(3):
        if number == 2:
            mark()
            if RANK == 3:
                block()
        model(torch.ones(2, 8)).sum().backward()


def dtensor() -> None:
    """Rank 1 leaves out a redistribute, behind which the others wait."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (WORLD,))
    sharded = distribute_tensor(torch.ones(WORLD, 4), mesh, [Shard(0)])
    mark()
    if RANK == 1:
        block()
    print(sharded.redistribute(mesh, [Replicate()]).to_local().sum())


def checkpoint() -> None:
    """Rank 2 never comes to the second save."""
    import torch.distributed.checkpoint as dcp

    for name in ("first", "second"):
        if name == "second":
            mark()
            if RANK == 2:
                block()
        dcp.save({"weight": torch.ones(4)}, checkpoint_id=os.path.join(FOLDER, name))


def asynchronous_checkpoint() -> None:
    """Rank 1's write of its part does not end, and with it the save of all, which they wait for."""
    import torch.distributed.checkpoint as dcp

    class Writer(dcp.FileSystemWriter):  # type: ignore[misc]
        def write_data(self, *args: object, **options: object) -> object:
            if RANK == 1:
                block()
            written = super().write_data(*args, **options)
            mark()
            return written

    warm_up()
    saved = dcp.async_save({"weight": torch.ones(4)}, storage_writer=Writer(os.path.join(FOLDER, "checkpoint")))
    saved.result()
    step()


def pipelining() -> None:
    """Four stages under 1F1B; the module of stage 2 does not come back from its fifth micro-batch."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    class Layer(torch.nn.Linear):  # type: ignore[misc]
        calls = 0

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if RANK == 2 and self.calls == 5:
                block()
            return super().forward(batch)

    stage = PipelineStage(Layer(4, 4), RANK, WORLD, torch.device("cpu"), input_args=torch.ones(1, 4))
    schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=lambda output, target: (output - target).sum())
    if RANK != 2:
        mark()
    inputs = (torch.ones(8, 4),) if RANK == 0 else ()
    schedule.step(*inputs, **({"target": torch.ones(8, 4)} if RANK == WORLD - 1 else {}))


def _stay(_: int) -> int:
    block()


def _answer(number: int) -> int:
    time.sleep(0.01)
    return number


def _with_rpc() -> None:
    from torch.distributed import rpc

    rpc.init_rpc(f"worker{RANK}", rank=RANK, world_size=WORLD)


def remote_call() -> None:
    """Rank 0 waits for a call at rank 2, whose function does not come back; 1 and 2 wait in rpc's shutdown for it."""
    from torch.distributed import rpc

    _with_rpc()
    if RANK == 0:
        mark()
        rpc.rpc_sync("worker2", _stay, args=(1,), timeout=0)
    elif RANK == 1:
        mark()
    rpc.shutdown()


def remote_calls() -> None:
    """Healthy: rank 0 calls the others, which do nothing else."""
    from torch.distributed import rpc

    _with_rpc()
    mark()
    while RANK == 0:
        for other in range(1, WORLD):
            rpc.rpc_sync(f"worker{other}", _answer, args=(1,))
    rpc.shutdown()


def uneven_inputs() -> None:
    """Healthy: rank 1 has no batches left, and shadows the others' collectives in DDP's join."""
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    with model.join():
        for number in range(3 if RANK == 1 else 10**6):
            time.sleep(0.01)
            model(torch.ones(2, 4)).sum().backward()
            if number == 2:
                mark()


def micro_batches() -> None:
    """Healthy: 1F1B without end."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    layer = torch.nn.Linear(4, 4)
    stage = PipelineStage(layer, RANK, WORLD, torch.device("cpu"), input_args=torch.ones(1, 4))
    schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=lambda output, target: (output - target).sum())
    inputs = (torch.ones(8, 4),) if RANK == 0 else ()
    target = {"target": torch.ones(8, 4)} if RANK == WORLD - 1 else {}
    number = 0
    while True:
        schedule.step(*inputs, **target)
        number += 1
        if number == 3:
            mark()
