"""A small data-parallel training of which one rank gets stuck: the job behind `make demo`.

Rank 2 waits for a batch that its loader never delivers; the other ranks wait for it in an all_reduce.
"""

import queue

import torch
import torch.distributed as dist

from torchctl.server import report_step

STUCK_RANK, STUCK_STEP = 2, 3


def next_batch(batches: "queue.Queue[torch.Tensor]", step: int) -> torch.Tensor:
    if not (dist.get_rank() == STUCK_RANK and step == STUCK_STEP):
        batches.put(torch.randn(32, 64))
    return batches.get()


def train_step(weights: torch.Tensor, batch: torch.Tensor) -> None:
    gradient = batch.T @ (batch @ weights)
    dist.all_reduce(gradient)
    weights -= 0.01 * gradient / dist.get_world_size()


def main() -> None:
    dist.init_process_group("gloo")
    weights = torch.zeros(64, 8)
    batches: queue.Queue[torch.Tensor] = queue.Queue()
    for step in range(1000):
        report_step(step)
        train_step(weights, next_batch(batches, step))


if __name__ == "__main__":
    main()
