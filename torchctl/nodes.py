"""Workers behind the Unix sockets of other hosts: one `torchctl relay` per host, reached by ClusterShell.

How this works: ClusterShell runs the relay on every host, over ssh and its own tree where a topology is configured, or
by a command of the operator's with the host's name filled in (`srun`, `kubectl exec`). Answers are taken in as their
lines come. The relay gets a little less time than is left here, so that its own words about a silent worker arrive.
Host names were checked before they come here: none can be an option of ssh or a word of a shell.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

from torchctl.discovery.hostlist import NoClusterShellError, checked_host
from torchctl.endpoint import Endpoint
from torchctl.errors import DeadlineError, StoppedError, TorchctlError, UnreachableError, WorkerError
from torchctl.fanout import Outcome, Progress
from torchctl.question import Question
from torchctl.relaying import Errand, Reader

T = TypeVar("T")
SSH = "ssh"
_FANOUT = 64  # ssh processes at a time
_MARGIN_S = 0.5  # for the way there and back, at most a fifth of the time
_STDERR_BYTES = 4000
_SSH_FAILED = 255
_NOT_FOUND = (126, 127)


class NoTorchctlError(UnreachableError):
    """The host was reached and has no torchctl."""

    kind = "no_torchctl"
    hint = "install torchctl there, or say where it is: --remote /path/to/torchctl"


class NoLoginError(UnreachableError):
    """The host let nobody in."""

    kind = "no_login"
    hint = "try `ssh -o BatchMode=yes HOST true`; --via names another way"


class NobodyThereError(UnreachableError):
    """A relay ran and found no worker."""

    kind = "no_workers"
    hint = "no rank of the job runs there as this user, or its workers have no server"


class HostSilentError(DeadlineError):
    """The host's relay did not end in time."""

    kind = "host_timeout"
    hint = "the host or its login may be slow: try a longer --timeout"


def ask_nodes(
    hosts: Sequence[str],
    question: Question[T],
    deadline: float,
    *,
    via: str = SSH,
    remote: str = "torchctl",
    ranks: list[int] | None = None,
    job: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Outcome[T]]:
    """Ask the workers of every host; a host without an answer is one outcome with an error.

    Args:
        hosts: names, each as `discovery.hostlist.checked_host` lets through.
        deadline: `time.monotonic` seconds.
        via: "ssh", or a command with ``{host}`` in it.
        remote: the command there.

    Raises:
        TorchctlError: ClusterShell is missing, or the question cannot be asked from elsewhere.
    """
    if not question.name:
        raise TorchctlError("this command cannot ask workers of other hosts", hint="leave --nodes out")
    left = deadline - time.monotonic()
    errand = Errand(question.name, question.arguments, max(0.1, left - min(_MARGIN_S, left / 5)), ranks, job)
    readers = {checked_host(host): Reader(host, question) for host in hosts}
    run = _Run(readers, progress)
    run.start(f"{remote} relay {errand.encoded()}", via, max(0.1, left), jobs or _FANOUT)
    outcomes: list[Outcome[T]] = []
    for host, reader in readers.items():
        outcomes += reader.outcomes
        error = run.error_of(host, ranks is not None)
        if error is not None:
            outcomes.append(Outcome(Endpoint(node=host), None, error))
    return outcomes


class _Run:
    """One run of the relays, and what is known of each host's."""

    def __init__(self, readers: dict[str, Reader], progress: Progress | None) -> None:
        self._readers = readers
        self._progress = progress
        self._codes: dict[str, int] = {}
        self._said: dict[str, bytes] = {}
        self._late: set[str] = set()
        self._began = time.monotonic()
        self._interrupted = False

    def start(self, command: str, via: str, timeout_s: float, fanout: int) -> None:
        """Run the command on every host, until all have ended or the time is over."""
        try:
            from ClusterShell.Defaults import config_paths
            from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
            from ClusterShell.Task import task_self
            from ClusterShell.Topology import TopologyError
            from ClusterShell.Worker.Exec import ExecWorker
        except ImportError:
            raise NoClusterShellError("asking other hosts needs ClusterShell, and it is not installed") from None
        task = task_self()
        task.set_info("fanout", fanout)
        task.set_info("connect_timeout", timeout_s)
        task.set_info("command_timeout", timeout_s)
        task.set_info("ssh_options", "-oBatchMode=yes")
        task.set_default("stderr", True)
        task.set_default("stdout_msgtree", False)
        task.set_default("stderr_msgtree", False)
        nodes = NodeSet.fromlist(list(self._readers), resolver=RESOLVER_NOGROUP)
        handler = _handler(self)
        if via == SSH:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for path in config_paths("topology.conf"):
                    if os.path.exists(path) and not _is_sample(path):
                        with contextlib.suppress(OSError, TopologyError):
                            task.load_topology(path)
            task.shell(command, nodes=nodes, handler=handler, timeout=timeout_s, stdin=False)
        else:
            line = f"{via.replace('%', '%%').replace('{host}', '%host')} {command}"
            worker = ExecWorker(nodes=nodes, handler=handler, timeout=timeout_s, command=line, stderr=True, stdin=False)
            task.schedule(worker)
        try:
            task.resume()
        except KeyboardInterrupt:
            self._interrupted = True
            task.abort(kill=True)
        finally:
            if self._progress is not None:
                self._progress.close()

    def read(self, host: str, line: bytes) -> None:
        self._readers[host].feed(line)

    def complain(self, host: str, line: bytes) -> None:
        self._said[host] = (self._said.get(host, b"") + line + b"\n")[-_STDERR_BYTES:]

    def ended(self, host: str, code: int) -> None:
        self._codes[host] = code
        if self._progress is not None:
            slowest = next((name for name in self._readers if name not in self._codes), "")
            self._progress.update(len(self._codes), len(self._readers), slowest)

    def too_late(self, hosts: Sequence[str]) -> None:
        self._late.update(hosts)

    def error_of(self, host: str, asked_for_ranks: bool) -> WorkerError | None:
        """Return what went wrong with a host as a whole, None when its relay came to its end."""
        reader, code = self._readers[host], self._codes.get(host)
        said = " ".join(self._said.get(host, b"").decode("utf-8", "replace").split())[-300:]
        if reader.ended:
            if reader.trouble and not (asked_for_ranks or reader.outcomes):
                return NobodyThereError(f"has no worker: {reader.trouble}", endpoint=host)
            return None
        if self._interrupted:
            return StoppedError("had not answered when the command was interrupted", endpoint=host)
        if host in self._late or code is None:
            took = time.monotonic() - self._began
            what = "began to answer and did not end" if reader.began else "did not answer"
            return HostSilentError(f"{what} within {took:.1f} s", endpoint=host)
        if code == _SSH_FAILED and not reader.began:
            return NoLoginError(f"let nobody in: {said or 'no reason given'}", endpoint=host)
        if code in _NOT_FOUND and not reader.began:
            return NoTorchctlError(f"has no torchctl: {said or f'exit code {code}'}", endpoint=host)
        return UnreachableError(f"its relay ended with exit code {code}: {said or 'without a word'}", endpoint=host)


def _is_sample(path: str) -> bool:
    """Whether a configuration file came with ClusterShell's wheel, into our own virtual environment."""
    return sys.prefix != sys.base_prefix and os.path.realpath(path).startswith(os.path.realpath(sys.prefix) + os.sep)


def _handler(run: _Run) -> Any:
    """Return the object that ClusterShell tells of each line, each end, each timeout."""
    from ClusterShell.Event import EventHandler

    class Handler(EventHandler):  # type: ignore[misc]
        def ev_read(self, worker: Any, node: Any, sname: str, msg: bytes) -> None:
            (run.read if sname == worker.SNAME_STDOUT else run.complain)(str(node), msg)

        def ev_hup(self, worker: Any, node: Any, rc: int) -> None:
            run.ended(str(node), rc)

        def ev_close(self, worker: Any, timedout: bool) -> None:
            if timedout:
                run.too_late([str(node) for node in worker.iter_keys_timeout()])

    return Handler()
