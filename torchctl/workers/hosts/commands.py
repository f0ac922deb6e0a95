"""Run one command on each of many hosts with ClusterShell: over its ssh tree, or with the operator's own command.

How this works: ClusterShell's engine starts the commands, at most `fanout` at a time, and reports every line, exit
and timeout to a listener. If a topology is configured and this host is its root, ssh goes through gateways,
which run ClusterShell's own gateway program; their Python must have ClusterShell. If part of the tree has no working
gateway, the tree is abandoned: hosts that have not finished are asked directly, in the time left. ClusterShell has no
timeout for a gateway that connects and then says nothing, so this module limits the run as a whole.

Host names have already been checked: none can be an ssh option or contain anything that a shell interprets.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torchctl.workers.find.hostlist import NoClusterShellError

SSH = "ssh"
_GATEWAY_PYTHON = "CLUSTERSHELL_GW_PYTHON_EXECUTABLE"  # ClusterShell's name for the Python that gateways run
_GATEWAY_LOST = os.EX_PROTOCOL  # ClusterShell's exit code for hosts behind a lost gateway
_GRACE_S = 0.2  # so that ClusterShell can report its own timeouts before the run as a whole ends


class Listener(Protocol):
    """Receives what the commands print and how they end."""

    def read(self, host: str, line: bytes) -> None: ...

    def complain(self, host: str, line: bytes) -> None: ...

    def ended(self, host: str, code: int) -> None: ...

    def too_late(self, hosts: Sequence[str]) -> None: ...

    def unreached(self, lost_code: int) -> list[str]:
        """Return the hosts that did not time out and whose command has not ended, or ended with `lost_code`."""

    def start_again(self, hosts: Sequence[str]) -> None:
        """Discard what these hosts have printed."""


class HostCommands:
    """Runs one command per host.

    Args:
        via: "ssh", or a command that contains ``{host}``.
        fanout: how many commands run at a time.

    Raises:
        NoClusterShellError: ClusterShell is not installed.
    """

    def __init__(self, *, via: str = SSH, fanout: int = 64) -> None:
        try:
            import ClusterShell.Task  # noqa: F401
        except ImportError:
            raise NoClusterShellError("asking other hosts needs ClusterShell, and it is not installed") from None
        self._via = via
        self._fanout = fanout
        self._task: Any = None
        self._stopped = False

    def run(self, commands: Mapping[str, str], listener: Listener, timeout_s: float, gateway_python: str = "") -> None:
        """Run the commands until all have ended or time is up.

        Args:
            commands: the command for each host.
            listener: receives their output.
            gateway_python: the Python that gateways run, unless the environment names one.
        """
        from ClusterShell.Propagation import RouteResolvingError
        from ClusterShell.Topology import TopologyError

        end = time.monotonic() + timeout_s
        if self._stopped:
            return
        topology = _topology() if self._via == SSH else ""
        with _gateway_python(gateway_python), contextlib.suppress(RouteResolvingError, TopologyError):
            self._run(commands, listener, timeout_s, topology)
        left = end - time.monotonic()
        hosts = listener.unreached(_GATEWAY_LOST) if topology else []
        if left > 0 and hosts and not self._stopped:
            listener.start_again(hosts)
            self._run({host: commands[host] for host in hosts}, listener, left, "")

    def stop(self) -> None:
        """Stop the run from another thread."""
        self._stopped = True
        if self._task is not None:
            self._task.abort(kill=True)

    def _run(self, commands: Mapping[str, str], listener: Listener, timeout_s: float, topology: str) -> None:
        from ClusterShell.Task import TimeoutError as TaskTimeoutError
        from ClusterShell.Task import task_self

        task = self._task = task_self()
        task.set_info("fanout", self._fanout)
        # If a gateway does not answer, there must be time left to go around it.
        task.set_info("connect_timeout", max(1, int(timeout_s / 2 if topology else timeout_s)))
        task.set_info("command_timeout", timeout_s)
        task.set_default("stderr", True)
        task.set_default("stdout_msgtree", False)
        task.set_default("stderr_msgtree", False)
        if topology:
            task.load_topology(topology)
        by_command: dict[str, list[str]] = {}
        for host, command in commands.items():
            by_command.setdefault(command, []).append(host)
        for command, same in by_command.items():
            self._schedule(task, command, same, listener, timeout_s, bool(topology))
        try:
            task.resume(timeout_s + _GRACE_S)
        except TaskTimeoutError:
            listener.too_late(listener.unreached(_GATEWAY_LOST))
        finally:
            task.abort(kill=True)

    def _schedule(
        self, task: Any, command: str, hosts: Sequence[str], listener: Listener, timeout_s: float, tree: bool
    ) -> None:
        from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
        from ClusterShell.Worker.Exec import ExecWorker

        nodes = NodeSet.fromlist(list(hosts), resolver=RESOLVER_NOGROUP)
        handler = _handler(listener)
        if self._via == SSH:
            task.shell(command, nodes=nodes, handler=handler, timeout=timeout_s, stdin=False, tree=tree)
            return
        line = f"{self._via.replace('%', '%%').replace('{host}', '%host')} {command}"
        worker = ExecWorker(nodes=nodes, handler=handler, timeout=timeout_s, command=line, stderr=True, stdin=False)
        task.schedule(worker)


def _topology() -> str:
    """Return the path of the topology file in which this host is a root, or "" if there is none."""
    from ClusterShell.Defaults import config_paths
    from ClusterShell.Task import task_self
    from ClusterShell.Topology import TopologyError

    found = ""
    for path in config_paths("topology.conf"):
        if os.path.exists(path) and not _is_sample(path):
            with warnings.catch_warnings(), contextlib.suppress(OSError, TopologyError):
                warnings.simplefilter("ignore")
                task_self().load_topology(path)
                found = path
    task_self().topology = None
    return found


def _is_sample(path: str) -> bool:
    """Return whether a configuration file is only ClusterShell's sample, installed with its wheel."""
    return sys.prefix != sys.base_prefix and os.path.realpath(path).startswith(os.path.realpath(sys.prefix) + os.sep)


@contextlib.contextmanager
def _gateway_python(path: str) -> Iterator[None]:
    """Pass the gateways' Python to ClusterShell, which reads it only from the environment."""
    if not path or os.environ.get(_GATEWAY_PYTHON):
        yield
        return
    os.environ[_GATEWAY_PYTHON] = path
    try:
        yield
    finally:
        del os.environ[_GATEWAY_PYTHON]


def gateway_python(remote: str) -> str:
    """Return the Python of the remote torchctl's environment, or "" if its path does not show one."""
    first = shlex.split(remote)[:1]
    if not first or not os.path.isabs(first[0]):
        return ""
    folder, name = os.path.split(first[0])
    return shlex.quote(first[0] if name.startswith("python") else os.path.join(folder, "python3"))


def _handler(listener: Listener) -> Any:
    """Return the object that ClusterShell calls for every line, exit and timeout."""
    from ClusterShell.Event import EventHandler

    class Handler(EventHandler):  # type: ignore[misc]
        def ev_read(self, worker: Any, node: Any, sname: str, msg: bytes) -> None:
            (listener.read if sname == worker.SNAME_STDOUT else listener.complain)(str(node), msg)

        def ev_hup(self, worker: Any, node: Any, rc: int) -> None:
            listener.ended(str(node), rc)

        def ev_close(self, worker: Any, timedout: bool) -> None:
            if timedout:
                listener.too_late([str(node) for node in worker.iter_keys_timeout()])

    return Handler()
