"""A training on 16 ranks of which one gets stuck in its own code; another will be stopped, a third killed."""

import time

import torch
import torch.distributed as dist

from torchctl.server import report_step

STUCK_RANK = 5


def wait_for_a_batch_that_never_comes() -> None:
    while True:
        time.sleep(3600)


def train_step(gradient: torch.Tensor) -> None:
    # Not a collective: the ranks beside the killed one would end with an error instead of hanging on.
    dist.recv(gradient, src=STUCK_RANK)


def main() -> None:
    dist.init_process_group("gloo")
    gradient = torch.ones(8)
    dist.all_reduce(gradient)
    report_step(1)
    if dist.get_rank() == STUCK_RANK:
        wait_for_a_batch_that_never_comes()
    train_step(gradient)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
