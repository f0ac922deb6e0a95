"""Rank 0 waits for rank 1 in many calls at once, each on a thread of its own and in a group of its own."""

import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.elastic.utils import store as elastic_store

dist.init_process_group("gloo")
names = ["send", "irecv", "broadcast", "objects", "reduce", "gather", "barrier", "monitored", "batch", "fields"]
groups = {name: dist.new_group([0, 1], group_desc=name) for name in names}
tensor = torch.ones(4, 2)


class Held:
    work: dist.Work


def recv() -> None:
    dist.recv(tensor, src=1 - dist.get_rank(), tag=7)


def send() -> None:  # larger than what the kernel takes without a receiver
    dist.send(torch.ones(1 << 24), dst=1, group=groups["send"])


def irecv() -> None:
    work = dist.irecv(tensor, src=1, group=groups["irecv"], tag=3)
    assert work is not None
    work.wait()


def broadcast() -> None:
    dist.broadcast(tensor, src=1, group=groups["broadcast"])


def objects() -> None:
    dist.broadcast_object_list([None], src=1, group=groups["objects"])


def reduce() -> None:
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=groups["reduce"])


def gather() -> None:
    dist.all_gather([torch.ones(4, 2) for _ in range(2)], tensor, group=groups["gather"])


def barrier() -> None:
    dist.barrier(group=groups["barrier"])


def monitored() -> None:
    dist.monitored_barrier(group=groups["monitored"], timeout=timedelta(seconds=300))


def batch() -> None:
    for work in dist.batch_isend_irecv([dist.P2POp(dist.irecv, tensor, 1, groups["batch"], tag=5)]):
        work.wait()


def fields() -> None:
    held = Held()
    work = dist.all_reduce(tensor, group=groups["fields"], async_op=True)
    assert work is not None
    held.work = work
    held.work.wait()


def store() -> None:
    stored = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    key = "a/key"
    stored.wait([key, "another"], timedelta(seconds=300))


def elastic() -> None:
    stored = dist.HashStore()
    elastic_store.barrier(stored, 2, "torchelastic/barrier", 300)


def default_store() -> None:
    dist.distributed_c10d._get_default_store().get("plan")


if dist.get_rank() == 0:
    calls = [recv, send, irecv, broadcast, objects, reduce, gather, barrier, monitored, batch, fields, store, elastic]
    calls.append(default_store)
else:
    calls = [recv]
for call in calls:
    threading.Thread(target=call, name=call.__name__, daemon=True).start()
time.sleep(600)
