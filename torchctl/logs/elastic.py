"""What torchrun logs: who ended and how, what it does to the others, restarts, rendezvous.

Source: torch/distributed/elastic (agent/server/api.py, multiprocessing/api.py and errors, rendezvous), 1.13 to 2.13.
"""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

PATTERNS = (
    Pattern(
        "elastic_failed",
        "ended",
        ("failed (exitcode",),
        r"failed \(exitcode: (?P<code>-?\d{1,5})\) local_rank: (?P<local>\d{1,6}) \(pid: (?P<pid>\d{1,10})\)",
        "torchrun saw it end",
        "E1126 13:42:08.1 411 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1) local_rank: 0"
        " (pid: 4011) of binary: /usr/bin/python3",
        "1.13",
        "elastic/multiprocessing",
    ),
    Pattern(
        "elastic_closing",
        "context",
        ("closing signal",),
        r"Sending process (?P<pid>\d{1,10}) closing signal (?P<signal>\w{1,12})",
        "torchrun ends it because another rank has ended",
        "W1126 13:42:08.1 411 torch/distributed/elastic/multiprocessing/api.py:897] Sending process 4012 closing"
        " signal SIGTERM",
        "1.13",
        "elastic/multiprocessing",
    ),
    Pattern(
        "elastic_restart",
        "context",
        ("will restart worker group",),
        r"Worker group (?P<state>\w{1,20})\. {1,2}(?P<left>\d{1,6})/(?P<of>\d{1,6}) attempts left; {1,2}will restart"
        r" worker group",
        "torchrun starts all workers again",
        "I1126 13:42:08.1 411 torch/distributed/elastic/agent/server/api.py:946] [default] Worker group FAILED. 3/3"
        " attempts left; will restart worker group",
        "1.13",
        "elastic/agent",
    ),
    Pattern(
        "elastic_done",
        "context",
        ("worker group successfully finished",),
        r"worker group successfully finished",
        "all its workers ended with exit code 0",
        "I1126 15:42:08.1 411 torch/distributed/elastic/agent/server/api.py:932] [default] worker group successfully"
        " finished. Waiting 300 seconds for other agents to finish.",
        "1.13",
        "elastic/agent",
    ),
    Pattern(
        "elastic_summary",
        "context",
        ("Root Cause (first observed failure)",),
        r"Root Cause \(first observed failure\):",
        "torchrun's summary; what it calls the root cause is who ended first, and often a victim",
        "Root Cause (first observed failure):",
        "1.13",
        "elastic/multiprocessing/errors",
    ),
    Pattern(
        "elastic_rank",
        "context",
        ("(local_rank: ",),
        r"\A\s{0,8}rank {1,10}: (?P<about>\d{1,6}) \(local_rank: (?P<local>\d{1,6})\)",
        "of whom torchrun's summary speaks",
        "  rank      : 3 (local_rank: 3)",
        "1.13",
        "elastic/multiprocessing/errors",
    ),
    Pattern(
        "elastic_exit",
        "ended",
        ("exitcode  :",),
        r"\A\s{0,8}exitcode {1,10}: (?P<code>-?\d{1,5}) \(pid: (?P<pid>\d{1,10})\)",
        "torchrun's summary says how it ended",
        "  exitcode  : -6 (pid: 4011) (SIGABRT)",
        "1.13",
        "elastic/multiprocessing/errors",
    ),
    Pattern(
        "agent_signal",
        "killed",
        ("got signal:", "death signal"),
        r"SignalException: Process (?P<pid>\d{1,10}) got signal: (?P<signal>\d{1,3})|Received (?P<death>\w{1,12}) death"
        r" signal, shutting down workers",
        "torchrun itself was told to end: by the scheduler, or by a person",
        "torch.distributed.elastic.multiprocessing.api.SignalException: Process 411 got signal: 15",
        "1.13",
        "elastic/multiprocessing",
        weak=True,
    ),
    Pattern(
        "rendezvous_timeout",
        "launcher",
        ("RendezvousTimeoutError", "RendezvousConnectionError"),
        r"(?P<what>Rendezvous(?:Timeout|Connection)Error)",
        "torchrun did not find the other nodes, or not as many as --nnodes asks for",
        "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has"
        " failed. See inner exception for details.",
        "1.13",
        "elastic/rendezvous",
        weak=True,
    ),
    Pattern(
        "rendezvous_closed",
        "victim",
        ("RendezvousClosedError", "RendezvousGracefulExitError"),
        r"Rendezvous(?:Closed|GracefulExit)Error",
        "the rendezvous was closed: the agent of another node has ended",
        "torch.distributed.elastic.rendezvous.api.RendezvousClosedError",
        "1.13",
        "elastic/rendezvous",
    ),
    Pattern(
        "spawn_ended",
        "ended",
        ("terminated with exit code", "terminated with signal"),
        r"ProcessExitedException: process (?P<local>\d{1,6}) terminated with (?:exit code (?P<code>\d{1,3})|signal"
        r" (?P<signal>SIG[A-Z]{1,8}))",
        "torch.multiprocessing.spawn saw it end",
        "torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated with signal SIGKILL",
        "1.13",
        "torch/multiprocessing",
    ),
    Pattern(
        "lightning_ended",
        "ended",
        ("Child process with PID",),
        r"\[rank: (?P<about>\d{1,6})\] Child process with PID (?P<pid>\d{1,10}) terminated with code"
        r" (?P<code>-?\d{1,5})",
        "Lightning saw it end",
        "[rank: 1] Child process with PID 4012 terminated with code 1. Forcefully terminating all other processes",
        "",
        "Lightning",
    ),
    Pattern(
        "mpi_ended",
        "ended",
        ("mpirun noticed", "mpiexec noticed"),
        r"noticed that process rank (?P<about>\d{1,6}) with PID (?P<pid>\d{1,10}) on node (?P<host>[\w.-]{1,255})"
        r" exited on signal (?P<number>\d{1,2})",
        "mpirun saw it end",
        "mpirun noticed that process rank 3 with PID 4012 on node n1 exited on signal 9 (Killed).",
        "",
        "Open MPI",
    ),
    Pattern(
        "deepspeed_ended",
        "ended",
        ("exits with return code",),
        r"exits with return code = (?P<code>-?\d{1,5})",
        "DeepSpeed's launcher saw a process end",
        "[2026-11-26 13:42:08,100] [ERROR] [launch.py:322:sigkill_handler] ['python', 'train.py'] exits with return"
        " code = 1",
        "",
        "DeepSpeed",
    ),
    Pattern(
        "ray_oom",
        "out_of_memory",
        ("running low on memory",),
        r"killed due to the node running low on memory",
        "Ray's memory monitor ended it",
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
        "",
        "Ray",
    ),
    Pattern(
        "launcher_failed",
        "victim",
        ("returned non-zero exit status", "ProcessRaisedException", "RayActorError", "ActorDiedError"),
        r"CalledProcessError: .{0,2000}returned non-zero exit status|ProcessRaisedException|RayActorError"
        r"|ActorDiedError",
        "a launcher ends because a worker has ended",
        "subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1.",
        "",
        "accelerate, DeepSpeed, torch.multiprocessing, Ray",
    ),
    Pattern(
        "child_failed",
        "victim",
        ("ChildFailedError",),
        r"ChildFailedError",
        "torchrun ends because a worker has ended",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
        "1.13",
        "elastic/multiprocessing/errors",
    ),
)
