"""Rank 0 begins sends and receives as a pipeline does, and waits for one that rank 1 does not answer."""

import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, tensor = dist.get_rank(), torch.ones(4)
pair = dist.new_group([0, 1], group_desc="stages")
dropped = dist.irecv(tensor, src=1 - rank, tag=1)
del dropped
done = dist.batch_isend_irecv(
    [
        dist.P2POp(dist.isend, torch.ones(4), 1 - rank, pair, tag=2),
        dist.P2POp(dist.irecv, tensor, 1 - rank, pair, tag=2),
    ]
)
for request in done:
    request.wait()
requests = [dist.irecv(torch.ones(4), src=1 - rank, group=pair, tag=tag) for tag in (5, 6)]
if rank == 0:
    for request in requests:
        request.wait()
time.sleep(600)
