"""From the text of /proc to a reason: what a live test cannot make without touching what is the whole machine's."""

from pathlib import Path

import pytest

from tests.conftest import ALLOWED_SKIPS
from torchctl.process import reasons as reasons_module
from torchctl.process.memory import ControlGroup, group_of
from torchctl.process.reasons import Reason, reasons
from torchctl.process.samples import Sample, sample

PID, SERVER = 4711, 4713
STATUS = """\
Name:\tpython
Umask:\t0022
State:\t{state}
Tgid:\t4711
Pid:\t{tid}
PPid:\t4600
TracerPid:\t{tracer}
Uid:\t1000\t1000\t1000\t1000
VmPeak:\t38412096 kB
VmRSS:\t 2210340 kB
VmSwap:\t{swap_kib} kB
Threads:\t2
SigBlk:\t0000000000000000
SigCgt:\t0000000180004a02
voluntary_ctxt_switches:\t{switches}
nonvoluntary_ctxt_switches:\t310
"""
STAT = (
    "{tid} (pt_main (thread) {state} 4600 4711 4711 0 -1 4194560 301201 0 {faults} 0 51200 3401 0 0 20 0 2 0 8123456"
    " 39333986304 552585 18446744073709551615 4194304 7123456 140722 0 0 0 0 16781312 134235650 0 0 0 17 3 0 0"
)
CGROUP_V1 = "9:name=systemd:/\n6:freezer:/slurm/job_7\n4:memory:/slurm/job_7\n0::/\n"
MOUNTS_V1 = (
    "36 28 0:32 / /sys/fs/cgroup/freezer rw,nosuid - cgroup cgroup rw,freezer\n"
    "35 28 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
)
CGROUP_V2, MOUNTS_V2 = "0::/slurm/job_7\n", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


class Recorded:
    """A machine's /proc and control groups in a folder, and what is told of the process between two moments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str) -> None:
        """Write one file, its folders too."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def at(
        self,
        *,
        state: str = "S (sleeping)",
        wait: str = "hrtimer_nanosleep",
        tracer: int = 0,
        faults: int = 0,
        swap: int = 0,
    ) -> tuple[Sample, ControlGroup]:
        """Look at the process as it is with these fields."""
        for folder, tid in (
            (f"proc/{PID}", PID),
            (f"proc/{PID}/task/{PID}", PID),
            (f"proc/{PID}/task/{SERVER}", SERVER),
        ):
            fields = {"tid": tid, "tracer": tracer, "swap_kib": swap, "switches": 12, "faults": faults}
            self.write(f"{folder}/status", STATUS.format(state=state, **fields))
            self.write(f"{folder}/stat", STAT.format(tid=tid, state=state[0], faults=faults))
            self.write(f"{folder}/wchan", wait)
            self.write(f"{folder}/schedstat", "1203000 4000 322\n")
        proc = str(self.folder / "proc")
        return sample(PID, proc=proc), group_of(PID, proc=proc, root=str(self.folder))

    def reasons(self, before: tuple[Sample, ControlGroup], after: tuple[Sample, ControlGroup]) -> list[Reason]:
        """Return what two looks, a second apart, tell."""
        then, now = before[0]._replace(time=100.0), after[0]._replace(time=101.0)
        return reasons(then, now, SERVER, (before[1], after[1]), proc=str(self.folder / "proc"))


@pytest.fixture
def recorded(folder: Path) -> Recorded:
    return Recorded(folder)


def test_swapping(recorded: Recorded) -> None:
    found = recorded.reasons(recorded.at(faults=8123, swap=2097152), recorded.at(faults=9323, swap=2097152))
    assert found == [Reason("swapping", "swapping: 2048 MiB swapped out, 1200 pages read per second")]


def test_frozen_in_v1(recorded: Recorded) -> None:
    recorded.write(f"proc/{PID}/cgroup", CGROUP_V1)
    recorded.write(f"proc/{PID}/mountinfo", MOUNTS_V1)
    recorded.write("sys/fs/cgroup/freezer/slurm/job_7/freezer.state", "FROZEN\n")
    look = recorded.at(wait="__refrigerator")
    assert recorded.reasons(look, look) == [Reason("frozen", "its control group is frozen")]


def test_frozen_in_v2(recorded: Recorded) -> None:
    recorded.write(f"proc/{PID}/cgroup", CGROUP_V2)
    recorded.write(f"proc/{PID}/mountinfo", MOUNTS_V2)
    recorded.write("sys/fs/cgroup/slurm/job_7/cgroup.events", "populated 1\nfrozen 1\n")
    look = recorded.at(wait="do_freezer_trap")
    assert recorded.reasons(look, look) == [Reason("frozen", "its control group is frozen")]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_at_the_memory_limit(recorded: Recorded, version: str) -> None:
    recorded.write(f"proc/{PID}/cgroup", CGROUP_V1 if version == "v1" else CGROUP_V2)
    recorded.write(f"proc/{PID}/mountinfo", MOUNTS_V1 if version == "v1" else MOUNTS_V2)
    folder = "sys/fs/cgroup/memory/slurm/job_7" if version == "v1" else "sys/fs/cgroup/slurm/job_7"
    names = ("limit_in_bytes", "usage_in_bytes") if version == "v1" else ("max", "current")
    for name, number in zip(names, (8 << 30, (8 << 30) - 4096), strict=True):
        recorded.write(f"{folder}/memory.{name}", f"{number}\n")
    look = recorded.at()
    assert recorded.reasons(look, look) == [
        Reason("memory_limit", "its control group is at its memory limit of 8192 MiB")
    ]


@pytest.mark.parametrize(
    ("state", "tracer", "reason"),
    [
        ("T (stopped)", 0, Reason("stopped", "stopped by a signal (SIGSTOP or SIGTSTP); SIGCONT resumes it")),
        ("t (tracing stop)", 815, Reason("traced", "stopped by gdb, pid 815, which is tracing it")),
        ("D (disk sleep)", 0, Reason("uninterruptible", "its main thread is in uninterruptible sleep (D) in nfs_wait")),
        ("Z (zombie)", 0, Reason("zombie", "dead, and its parent has not reaped it (zombie)")),
        ("X (dead)", 0, Reason("gone", "has ended")),
    ],
)
def test_states_of_the_process(recorded: Recorded, state: str, tracer: int, reason: Reason) -> None:
    recorded.write("proc/815/comm", "gdb\n")
    look = recorded.at(state=state, wait="nfs_wait", tracer=tracer)
    assert recorded.reasons(look, look) == [reason]


def test_nothing_is_wrong_with_an_idle_process(recorded: Recorded) -> None:
    look = recorded.at()
    assert recorded.reasons(look, look) == []


# Reason -> the test that shows it with a real process.
LIVE = {
    "lock_held": "test_a_held_lock_is_told",
    "stopped": "test_a_stopped_one",
    "traced": "test_a_traced_one",
    "zombie": "test_one_whose_main_thread_has_ended",
    "uninterruptible": "test_one_in_uninterruptible_sleep",
    "memory_limit": "test_one_at_its_memory_limit",
    "frozen": "test_a_frozen_one",
    "gone": "test_a_dead_worker_has_its_last_word_in_ps",
}
ON_RECORDED_TEXT = {"swapping": "on recorded /proc text alone, since the machine's swap is not touched: swapping"}


def test_each_reason_is_shown_live_or_named_in_the_list_of_skips() -> None:
    documented = (reasons_module.Reason.__doc__ or "").partition("Kinds: ")[2].rstrip(".\n ").split(", ")
    assert sorted(documented) == sorted({**LIVE, **ON_RECORDED_TEXT})
    tests = "".join(path.read_text() for path in ALLOWED_SKIPS.parent.rglob("test_*.py"))
    assert [name for name in LIVE.values() if f"def {name}(" not in tests] == []
    listed = ALLOWED_SKIPS.read_text().splitlines()
    assert [words for words in ON_RECORDED_TEXT.values() if f"# {words}" not in listed] == []
