"""What the threads of a real rank are calling: each function of torch.distributed with its arguments."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import wait_until
from tests.live.jobs import forked_job
from torchctl.protocol.callreader import calls_from_text
from torchctl.protocol.calls import Call, Calls, Tensor, ThreadCalls
from torchctl.stacks.calls import note_of
from torchctl.stacks.reader import StackReader
from torchctl.workers.ask.fanout import ask_one
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.look import sight_question

pytestmark = pytest.mark.torch
SCRIPT = Path(__file__).parent / "many_calls.py"
TENSOR = Tensor("float32", (4, 2), "cpu")
WAITING = [
    "recv",
    "send",
    "irecv",
    "broadcast",
    "objects",
    "reduce",
    "gather",
    "barrier",
    "monitored",
    "batch",
    "fields",
]


def ask(runtime_dir: Path, *arguments: str, ranks: str = "0") -> Any:
    environment = {**os.environ, "TORCHCTL_RUNTIME_DIR": str(runtime_dir)}
    command = [sys.executable, "-m", "torchctl", *arguments, "--ranks", ranks, "--json"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def read(runtime_dir: Path) -> Calls:
    return calls_from_text(ask(runtime_dir, "call", "calls")["workers"][0]["text"])


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def seen(runtime_dir: Path) -> Iterator[Calls]:
    """Return what rank 0 of the job is calling, once all its threads wait."""
    calls: list[Calls] = []

    def all_wait() -> bool:
        calls.append(read(runtime_dir))
        waiting = {one.name for one in calls[-1].threads if one.wait is not None}
        return {*WAITING, "store", "elastic", "default_store"} <= waiting and len(calls) > 1 and _still(calls[-2:])

    with forked_job(SCRIPT, 2, runtime_dir):
        wait_until(all_wait, 60)
        yield calls[-1]


def _still(calls: list[Calls]) -> bool:
    before, after = ({one.ident: one.wait for one in each.threads} for each in calls)
    return before == after


def thread(seen: Calls, name: str) -> ThreadCalls:
    return next(one for one in seen.threads if one.name == name)


def expected(function: str, depth: int = 0, **fields: Any) -> dict[str, Any]:
    nothing = Call(function, depth, 0, None, {}, None, "", "", None, (), {}, ())
    return nothing._replace(**fields)._asdict()


def called(seen: Calls, name: str) -> list[dict[str, Any]]:
    """Return a thread's calls without their lines; the group by its description."""
    found = []
    for call in thread(seen, name).calls:
        assert call.line > 0
        group = None if call.group is None else seen.groups[call.group].description
        found.append({**call._asdict(), "line": 0, "group": group})
    return found


def test_the_groups_and_their_members(seen: Calls) -> None:
    assert [one.description for one in seen.groups] == ["default_pg", *WAITING[1:]]
    assert {one.members for one in seen.groups} == {(0, 1)}
    assert [one.default for one in seen.groups] == [True] + [False] * 10
    assert {one.rank for one in seen.groups} == {0}
    counts = {one.description: one.sequence for one in seen.groups}
    assert all(count is not None for count in counts.values())
    assert counts["reduce"] == 1


def test_send_and_receive(seen: Calls) -> None:
    (recv,) = called(seen, "recv")
    numbers = {"src": 1, "tag": 7}
    assert recv == expected("recv", group="default_pg", numbers=numbers, tensors={"tensor": (TENSOR,)})
    (send,) = called(seen, "send")
    assert send["numbers"] == {"dst": 1, "tag": 0, "group_dst": 1}
    assert send["group"] == "send"
    assert send["tensors"] == {"tensor": (Tensor("float32", (1 << 24,), "cpu"),)}
    for name in ("recv", "send"):
        wait = thread(seen, name).wait
        assert wait is not None
        assert wait[:3] == ("work.wait", "work", "torch.distributed.Work")
        assert wait.operation == name


def test_collectives(seen: Calls) -> None:
    numbers, tensors = {"src": 1, "group_src": 1}, {"tensor": (TENSOR,)}
    assert called(seen, "broadcast") == [
        expected("broadcast", group="broadcast", numbers=numbers, async_op=False, tensors=tensors)
    ]
    assert called(seen, "reduce") == [expected("all_reduce", group="reduce", op="MAX", async_op=False, tensors=tensors)]
    assert called(seen, "gather") == [
        expected("all_gather", group="gather", async_op=False, tensors={**tensors, "tensor_list": (TENSOR, TENSOR)})
    ]
    assert called(seen, "barrier") == [expected("barrier", group="barrier", async_op=False)]
    assert called(seen, "monitored") == [expected("monitored_barrier", group="monitored")]


def test_a_call_within_another(seen: Calls) -> None:
    outer, inner = called(seen, "objects")
    assert outer == expected("broadcast_object_list", 2, group="objects", numbers={"src": 1, "group_src": 1})
    assert inner["function"] == "broadcast"
    assert inner["numbers"] == {"src": 1, "group_src": 1}
    assert inner["tensors"] == {"tensor": (Tensor("int64", (1,), "cpu"),)}


@pytest.mark.parametrize(
    ("name", "call", "operation"),
    [("irecv", "work.wait", "recv"), ("batch", "work.wait", "recv"), ("fields", "held.work.wait", "allreduce")],
)
def test_a_work_that_the_jobs_own_code_waits_for(seen: Calls, name: str, call: str, operation: str) -> None:
    one = thread(seen, name)
    assert one.calls == ()
    assert one.wait is not None
    assert (one.wait.call, one.wait.kind, one.wait.operation) == (call, "work", operation)


def test_the_keys_of_stores(seen: Calls) -> None:
    wait = thread(seen, "store").wait
    assert wait is not None
    assert wait[:3] == ("stored.wait", "store", "torch.distributed.TCPStore")
    assert wait.keys == ("a/key", "another")
    elastic = thread(seen, "elastic")
    assert elastic.wait is not None
    assert elastic.wait.keys == ("torchelastic/barrier/last_member",)
    assert elastic.calls[0].keys == ("torchelastic/barrier",)
    default = thread(seen, "default_store").wait
    assert default is not None
    assert (default.kind, default.keys) == ("store", ("plan",))


def test_threads_of_torchctl_are_left_out(seen: Calls) -> None:
    assert not [one.name for one in seen.threads if one.name.startswith("torchctl-")]
    assert seen.main is seen.threads[0]
    assert seen.main is not None
    assert seen.main.wait is not None
    assert seen.main.wait.call == "time.sleep"


def test_traceback_says_what_each_thread_is_in(seen: Calls, runtime_dir: Path) -> None:
    (worker,) = ask(runtime_dir, "traceback", "--all-threads")["workers"]
    said = {one["name"]: one["call"] for one in worker["threads"]}
    assert said["recv"] == "recv(src=1, tag=7) of float32[4, 2]"
    assert said["send"] == "send(dst=1, group=send) of float32[16777216]"
    assert said["reduce"] == "all_reduce(op=MAX, group=reduce) of float32[4, 2]"
    assert said["objects"] == (
        "broadcast_object_list(src=1, group=objects), in its broadcast(src=1, group=objects) of int64[1]"
    )
    assert said["irecv"] == "Work.wait() of recv"
    assert said["store"] == "TCPStore.wait() for 'a/key', 'another'"
    assert said["elastic"] == (
        "barrier(key='torchelastic/barrier'), HashStore.wait() for 'torchelastic/barrier/last_member'"
    )
    assert said["MainThread"] == "time.sleep()"


def test_ranks_at_one_line_in_calls_with_other_arguments_are_two_branches(seen: Calls, runtime_dir: Path) -> None:
    (job,) = ask(runtime_dir, "traceback", "--thread", "recv", ranks="0,1")["jobs"]
    found = {one["call"]: one["ranks"] for one in job["classes"]}
    assert found == {"recv(src=1, tag=7) of float32[4, 2]": [0], "recv(src=0, tag=7) of float32[4, 2]": [1]}
    environment = {**os.environ, "TORCHCTL_RUNTIME_DIR": str(runtime_dir), "COLUMNS": "100"}
    command = [sys.executable, "-m", "torchctl", "traceback", "--thread", "recv"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "in recv(src=0, tag=7) of float32[4, 2]" in shown
    assert "in recv(src=1, tag=7) of float32[4, 2]" in shown


def test_calls_are_kept_with_the_stacks(seen: Calls, runtime_dir: Path, tmp_path: Path) -> None:
    for command in (("collect", str(tmp_path / "collected")), ("diagnose", "--save", str(tmp_path / "saved"))):
        environment = {**os.environ, "TORCHCTL_RUNTIME_DIR": str(runtime_dir)}
        arguments = [sys.executable, "-m", "torchctl", *command, "--timeout", "30"]
        subprocess.run(arguments, env=environment, capture_output=True, check=False)
    for folder in ("collected", "saved"):
        stacks = StackReader().read((tmp_path / folder / "traceback_rank_0.txt").read_bytes())
        assert stacks.calls is not None
        assert {one.description for one in stacks.calls.groups} == {one.description for one in seen.groups}
        recv = next(one for one in stacks.threads if one.name == "recv")
        assert note_of(stacks, recv) == "recv(src=1, tag=7) of float32[4, 2]"


def test_each_look_of_a_diagnosis_has_the_calls(seen: Calls, runtime_dir: Path) -> None:
    (path,) = runtime_dir.glob("rank0-*.sock")
    looks = [
        ask_one(Endpoint(path=str(path)), sight_question(kind), time.monotonic() + 60).value
        for kind in ("counters", "digest")
    ]
    for look in looks:
        assert look is not None
        assert look.calls is not None
        assert [one.sequence for one in look.calls.groups] == [one.sequence for one in seen.groups]
        recv = thread(look.calls, "recv")
        assert recv.calls[0].numbers == {"src": 1, "tag": 7}
        assert recv.cpu_ns == thread(seen, "recv").cpu_ns
