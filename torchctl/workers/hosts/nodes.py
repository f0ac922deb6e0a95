"""Ask workers behind Unix sockets on other hosts through one `torchctl relay` per host, started by ClusterShell.

How this works: ClusterShell runs the relay on every host, over ssh (and its tree, if a topology is configured), or
with the operator's own command, which gets the host name (`srun`, `kubectl exec`); see `commands`. Answers are
processed line by line as they arrive. The relay gets slightly less time than is left here, so that its own report on a
silent worker arrives. Its exit code and ssh's output show what went wrong with a host as a whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from torchctl.errors import DeadlineError, UnknownHostError, UnreachableError, WorkerError
from torchctl.text import duration
from torchctl.workers.ask.outcome import Outcome, stopped
from torchctl.workers.ask.progress import Progress
from torchctl.workers.ask.question import Question
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.find.hostlist import checked_host
from torchctl.workers.hosts.commands import SSH, HostCommands, gateway_python
from torchctl.workers.hosts.relay import Errand, Reader

T = TypeVar("T")
_FANOUT = 64  # how many ssh processes run at a time
_MARGIN_S = 0.5  # for the round trip; at most a fifth of the time
_STDERR_BYTES = 4000
_SSH_FAILED = 255
_NOT_FOUND = (126, 127)
# What ssh prints (OpenSSH 7 to 10) -> what it means; anything else from ssh itself is a failed login.
_NO_NAME = re.compile(r"Could not resolve hostname")
_NO_WAY = re.compile(
    r"No route to host|Network is unreachable|Connection (?:refused|reset|closed)|port \d+: Broken pipe"
)
_TOO_SLOW = re.compile(r"timed out")
_NO_MODULE = re.compile(r"No module named '?torchctl|execve\(\)")  # as printed by Python, and by srun


class NoTorchctlError(UnreachableError):
    """The host was reached but does not have torchctl."""

    kind = "no_torchctl"
    hint = "install torchctl on that host, or give its path: --remote /path/to/torchctl"


class NoLoginError(UnreachableError):
    """The host refused the login."""

    kind = "no_login"
    hint = "try `ssh -o BatchMode=yes HOST true`; --via sets another command"


class NobodyThereError(UnreachableError):
    """A relay ran and found no worker."""

    kind = "no_workers"
    hint = "no rank of the job runs on that host as this user, or its workers have no server"


class HostSilentError(DeadlineError):
    """The host's relay did not finish in time."""

    kind = "host_timeout"
    hint = "the host or its login may be slow: try a longer --timeout"


class Relays:
    """The transport for workers on other hosts; a host that does not reply is one outcome with an error.

    Args:
        via: "ssh", or a command that contains ``{host}``.
        remote: the torchctl command on those hosts.
        ranks, job: ask only workers of these; None for all.
        jobs: how many hosts at a time.

    Raises:
        NoClusterShellError: ClusterShell is not installed.
    """

    def __init__(
        self,
        *,
        via: str = SSH,
        remote: str = "torchctl",
        ranks: list[int] | None = None,
        job: str | None = None,
        jobs: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._remote = remote
        self._ranks = ranks
        self._job = job
        self._progress = progress
        self._commands = HostCommands(via=via, fanout=jobs or _FANOUT)
        self._stopped = False

    def ask(self, endpoints: Sequence[Endpoint], question: Question[T], deadline: float) -> list[Outcome[T]]:
        assert question.name, "a relay asks by a question's name"
        left_s = max(0.1, deadline - time.monotonic())
        relay_s = max(0.1, left_s - min(_MARGIN_S, left_s / 5))
        commands = {}
        for host in (checked_host(endpoint.node) for endpoint in endpoints):
            errand = Errand(question.name, question.arguments_on(host), relay_s, self._ranks, self._job)
            commands[host] = f"{self._remote} relay {errand.encoded()}"
        heard = _Heard(question, list(commands), self._progress)
        try:
            self._commands.run(commands, heard, left_s, gateway_python(self._remote))
        except KeyboardInterrupt:
            self._stopped = True
        finally:
            heard.close()
        return heard.outcomes(self._ranks is not None, self._stopped)

    def stop(self) -> None:
        self._stopped = True
        self._commands.stop()


class _Heard(Generic[T]):
    """The hosts' output so far, and how their relays ended; a `commands.Listener`."""

    def __init__(self, question: Question[T], hosts: Sequence[str], progress: Progress | None) -> None:
        self._question = question
        self._readers = {host: Reader(host, question) for host in hosts}
        self._progress = progress
        self._codes: dict[str, int] = {}
        self._said: dict[str, bytes] = {}
        self._late: set[str] = set()
        self._began = time.monotonic()

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

    def unreached(self, lost_code: int) -> list[str]:
        return [
            host
            for host, reader in self._readers.items()
            if not reader.ended and host not in self._late and self._codes.get(host, lost_code) == lost_code
        ]

    def start_again(self, hosts: Sequence[str]) -> None:
        for host in hosts:
            self._readers[host] = Reader(host, self._question)
            self._codes.pop(host, None)
            self._said.pop(host, None)

    def close(self) -> None:
        """Clear the progress line."""
        if self._progress is not None:
            self._progress.close()

    def outcomes(self, asked_for_ranks: bool, interrupted: bool) -> list[Outcome[T]]:
        """Return the outcomes of each host's workers, and an error for each host without any."""
        found: list[Outcome[T]] = []
        for host, reader in self._readers.items():
            found += reader.outcomes
            error = self._error_of(host, asked_for_ranks, interrupted)
            if error is not None:
                found.append(Outcome(Endpoint(node=host, source="--nodes"), None, error))
        return found

    def _error_of(self, host: str, asked_for_ranks: bool, interrupted: bool) -> WorkerError | None:
        """Return what went wrong with a host as a whole, or None if its relay finished."""
        reader, code = self._readers[host], self._codes.get(host)
        if reader.ended:
            if reader.trouble and not (asked_for_ranks or reader.outcomes):
                return NobodyThereError(f"has no worker: {reader.trouble}", endpoint=host)
            return None
        if interrupted:
            return stopped(Endpoint(node=host))
        if host in self._late or code is None:
            took = time.monotonic() - self._began
            what = "began to answer and did not finish" if reader.began else "did not answer"
            return HostSilentError(f"{what} within {duration(took)}", endpoint=host)
        said = " ".join(self._said.get(host, b"").decode("utf-8", "replace").split())[-300:]
        if not reader.began and (code in _NOT_FOUND or _NO_MODULE.search(said)):
            return NoTorchctlError(f"has no torchctl: {said or f'exit code {code}'}", endpoint=host)
        if code == _SSH_FAILED and not reader.began:
            return _of_ssh(host, said)
        return UnreachableError(f"its relay ended with exit code {code}: {said or 'no output'}", endpoint=host)


def _of_ssh(host: str, said: str) -> WorkerError:
    """Return the error for a host that ssh could not log in to."""
    if _NO_NAME.search(said):
        return UnknownHostError(f"cannot be resolved: {said}", endpoint=host)
    if _TOO_SLOW.search(said):
        return HostSilentError(f"did not accept the login in time: {said}", endpoint=host)
    if _NO_WAY.search(said):
        return UnreachableError(f"cannot be reached: {said}", endpoint=host)
    return NoLoginError(f"refused the login: {said or 'no reason given'}", endpoint=host)
