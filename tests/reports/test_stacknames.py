"""What names of files say: a rank only where they say so, a host, a time."""

from __future__ import annotations

import pytest

from torchctl.reports.stacknames import named_host, named_rank, named_time, says_stacks


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("traceback_rank_3.txt", 3),
        ("node7_pyspy_rank3.txt", 3),
        ("rank-12.log", 12),
        ("stacks_rank_4_of_8.txt", 4),
        ("rank_5/stderr.log", 5),
        ("pyspy_1.txt", None),
        ("py-spy-3290.txt", None),
        ("stacks-node-6.txt", None),
        ("stacks_20261126_110807.txt", None),
        ("stacks_local_rank_3.txt", None),
        ("stacks_node_rank_1.txt", None),
        ("frank7.txt", None),
        ("3/stderr.log", None),
    ],
)
def test_a_rank_only_from_a_name_that_says_rank(name: str, rank: int | None) -> None:
    assert named_rank(f"/job/{name}") == rank


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("stacks_node-3.txt", "node-3"),
        ("trace-node-5.out", "node-5"),
        ("pyspy_gpu-a100-07.txt", "gpu-a100-07"),
        ("pyspy_ip-10-0-0-1_4011.txt", "ip-10-0-0-1"),
        ("stacks_node03.cluster.local.txt", "node03.cluster.local"),
        ("nid001234.stacks", "nid001234"),
        ("host12-stacks-2026-11-26T11:08:07.txt", "host12"),
        ("worker-3/pyspy.txt", "worker-3"),
        ("2026-11-26/node3/7.txt", "node3"),
        ("pyspy_1.txt", ""),
        ("py-spy-3290.txt", ""),
        ("slurm-12345_3.out", ""),
        ("attempt_0/pyspy.txt", ""),
        ("stacks_20261126_110807.txt", ""),
    ],
)
def test_a_host_from_a_name_that_holds_one(name: str, host: str) -> None:
    assert named_host(f"/job/{name}", "/job", 3290) == host


def test_a_time_and_what_says_stacks() -> None:
    assert (
        named_time("/job/stacks_20261126_110807.txt") == named_time("pyspy-2026-11-26T11:08:07.out") == "20261126110807"
    )
    assert named_time("stacks_3290.txt") == ""
    assert [says_stacks(f"/job/{name}") for name in ("stacks.txt", "pyspy-1.out", "traceback_rank_3.json")] == [
        True
    ] * 3
    assert [says_stacks(f"/job/{name}") for name in ("train.log", "nccl_trace_rank_3", "trace.txt")] == [False] * 3
