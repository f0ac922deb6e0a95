"""What the kernel, shells, Slurm and Kubernetes say of a process, a job or a node.

Source: mm/oom_kill.c of Linux, slurmstepd and srun (20.11 to 24.05), kubelet's reasons.
"""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

_SIGNALS = r"Killed|Segmentation fault|Aborted|Bus error|Terminated|Illegal instruction|Floating point exception"

PATTERNS = (
    Pattern(
        "kernel_oom",
        "out_of_memory",
        ("Killed process",),
        r"(?:(?P<group>Memory cgroup) )?[Oo]ut of memory: Killed? process (?P<pid>\d{1,10}),? \(?(?P<name>[^),]{1,32})",
        "the kernel's out-of-memory killer ended it",
        "[ 8123.1] Memory cgroup out of memory: Killed process 4011 (python) total-vm:98304000kB, anon-rss:64000000kB",
        "",
        "Linux",
        fatal=True,
    ),
    Pattern(
        "slurm_task_oom",
        "out_of_memory",
        ("Out Of Memory",),
        r"srun: error: (?P<host>[\w.-]{1,255}): tasks? (?P<tasks>[\d,-]{1,200}): Out Of Memory",
        "Slurm's memory limit ended it",
        "srun: error: n1: task 3: Out Of Memory",
        "",
        "srun",
        fatal=True,
    ),
    Pattern(
        "slurm_oom",
        "out_of_memory",
        ("oom_kill event", "oom-kill event"),
        r"slurmstepd: error: Detected (?P<count>\d{1,6}) oom[_-]kill event",
        "the kernel ended a process at Slurm's memory limit",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=4711.0. Some of the step tasks have been OOM Killed.",
        "",
        "slurmstepd",
        fatal=True,
    ),
    Pattern(
        "slurm_limit",
        "killed",
        ("DUE TO TIME LIMIT", "DUE TO PREEMPTION"),
        r"slurmstepd: error: \*\*\* (?:JOB|STEP) (?P<job>[\w.]{1,40}) ON (?P<host>[\w.-]{1,255}) CANCELLED AT"
        r" (?P<at>\S{1,40}) DUE TO (?P<why>TIME LIMIT|PREEMPTION)",
        "Slurm ended the job",
        "slurmstepd: error: *** JOB 4711 ON n1 CANCELLED AT 2026-11-26T13:42:07 DUE TO TIME LIMIT ***",
        "",
        "slurmstepd",
        fatal=True,
    ),
    Pattern(
        "slurm_node",
        "node_lost",
        ("Node failure on", "DUE TO NODE FAILURE"),
        r"Node failure on (?P<host>[\w.-]{1,255})|\*\*\* (?:JOB|STEP) (?P<job>[\w.]{1,40}) ON (?P<on>[\w.-]{1,255})"
        r" CANCELLED AT \S{1,40} DUE TO NODE FAILURE",
        "Slurm lost a node",
        "srun: error: Node failure on n2",
        "",
        "srun",
        fatal=True,
    ),
    Pattern(
        "slurm_cancelled",
        "killed",
        ("CANCELLED AT",),
        r"slurmstepd: error: \*\*\* (?:JOB|STEP) (?P<job>[\w.]{1,40}) ON (?P<host>[\w.-]{1,255}) CANCELLED AT"
        r" (?P<at>\S{1,40})",
        "it was cancelled: by scancel, or by Slurm because a task had ended",
        "slurmstepd: error: *** STEP 4711.0 ON n1 CANCELLED AT 2026-11-26T13:42:09 ***",
        "",
        "slurmstepd",
        fatal=True,
        weak=True,
    ),
    Pattern(
        "slurm_ended",
        "ended",
        ("srun: error: ",),
        r"srun: error: (?P<host>[\w.-]{1,255}): tasks? (?P<tasks>[\d,-]{1,200}): (?:Exited with exit code"
        rf" (?P<code>\d{{1,3}})|(?P<signal>{_SIGNALS}))",
        "srun saw it end",
        "srun: error: n1: task 3: Exited with exit code 1",
        "",
        "srun",
    ),
    Pattern(
        "pod_oom",
        "out_of_memory",
        ("OOMKilled",),
        r"(?:Reason|reason|STATUS)?:?.{0,60}\bOOMKilled\b",
        "Kubernetes' memory limit ended its container",
        "      Reason:       OOMKilled",
        "",
        "Kubernetes",
        fatal=True,
    ),
    Pattern(
        "pod_evicted",
        "killed",
        ("Evicted", "The node was low on resource"),
        r"(?:Reason|reason|Status|Warning):? {1,20}Evicted\b|The node was low on resource: (?P<what>[\w-]{1,40})",
        "Kubernetes evicted its pod",
        "Warning  Evicted  2m  kubelet  The node was low on resource: memory. Container trainer was using 61Gi.",
        "",
        "Kubernetes",
        fatal=True,
    ),
    Pattern(
        "pod_node",
        "node_lost",
        ("NodeNotReady", "TaintManagerEviction"),
        r"(?:Warning|Normal) {1,20}(?:NodeNotReady|TaintManagerEviction)\b",
        "Kubernetes lost a node",
        "Warning  NodeNotReady  3m  node-controller  Node is not ready",
        "",
        "Kubernetes",
        fatal=True,
        weak=True,
    ),
    Pattern(
        "fatal_python",
        "ended",
        ("Fatal Python error",),
        r"Fatal Python error: (?P<signal>Segmentation fault|Aborted|Bus error|Floating point exception|Illegal"
        r" instruction)",
        "a signal ended it, and faulthandler printed its stacks",
        "Fatal Python error: Segmentation fault",
        "",
        "faulthandler",
    ),
    Pattern(
        "shell_ended",
        "ended",
        ("Killed", "Segmentation fault", "Aborted", "Bus error"),
        rf"(?:line \d{{1,6}}: {{1,8}}(?P<pid>\d{{1,10}}) (?P<signal>{_SIGNALS}))|\A(?P<alone>Killed)\s*\Z",
        "a shell saw it end",
        "/var/spool/slurmd/job4711/slurm_script: line 12:  4011 Killed                  python train.py",
        "",
        "bash",
    ),
    Pattern(
        "kernel_segfault",
        "ended",
        ("segfault at",),
        r"(?P<name>[\w.-]{1,16})\[(?P<pid>\d{1,10})\]: (?P<signal>segfault) at ",
        "the kernel saw a bad memory access of it",
        "[ 8123.1] python[4011]: segfault at 18 ip 00007f0000000000 sp 00007ffd00000000 error 4 in libtorch.so",
        "",
        "Linux",
    ),
)
