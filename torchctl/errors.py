"""Every error that torchctl raises, with its exit code and what to do next.

TorchctlError                 exit 1
├── RuntimeDirError           1  the runtime folder is not ours or open to others
├── SecretFileError           1  a token or key file that is missing, unusable or open to others
├── DumpError                 1  a file or reply that is not a flight-recorder dump, or a hostile one
├── ServerError               1  the worker-side server cannot start
│   └── AddressInUseError     1  a live server already holds the address
├── NoWorkersError            3  nothing to talk to was found
├── StoreError                1  a store refused, or its state forbids what was asked
│   ├── KeyAbsentError        1  the key does not exist
│   ├── NotACounterError      1  the key should be a counter but holds something else
│   ├── StoreUnreachableError 3  no TCPStore answers there, or it was lost
│   ├── StoreTimeoutError     5  a key or a rank did not arrive in time
│   └── StoreInterruptedError 130 Ctrl-C in a wait; the message says what was left behind
└── WorkerError                  one worker; carries rank and endpoint
    ├── UnreachableError      3
    │   ├── NoSuchSocketError 3  no file at that path
    │   ├── RefusedError      3  nothing listens there
    │   ├── AccessDeniedError 3  the operating system or the server's token check denies access
    │   ├── BusyError         3  backlog full, or all connections in use
    │   ├── DegradedError     3  the worker's sentinel answers, but cannot provide what was requested
    │   ├── UnknownHostError  3  the host name does not resolve
    │   ├── CertificateError  3  TLS: the certificate does not prove that this is the worker
    │   └── NotAWorkerError   3  something else answered
    ├── TooLargeError         1  the reply is over the size limit
    ├── HandlerError          4  the handler ran and failed, or refused its parameters
    │   └── NoSuchHandlerError 4 the worker has no handler of that name
    ├── DeadlineError         5  no full answer before the deadline
    │   └── NotAskedError     5  its turn had not come before the deadline
    └── StoppedError        130  the operator interrupted the command first
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_HANDLER = 4
EXIT_DEADLINE = 5
EXIT_FINDING = 6
EXIT_INTERRUPTED = 130


class TorchctlError(Exception):
    """Base class: a sentence for the operator, an exit code and the next step.

    Args:
        message: one sentence.
        hint: the next step; defaults to the class's hint.

    Attributes:
        details: more fields for the JSON object of a run that ends with this error.
    """

    exit_code: int = EXIT_FAILED
    kind: str = "failed"  # a stable word, for JSON and for folding equal failures
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, object] = {}
        if hint is not None:
            self.hint = hint


class RuntimeDirError(TorchctlError):
    """The runtime folder cannot be trusted."""

    kind = "runtime_dir"


class SecretFileError(TorchctlError):
    """A token or key file that cannot be used, or that others can read."""

    kind = "secret_file"


class DumpError(TorchctlError):
    """A dump that is truncated, hostile, or not a dump at all."""

    kind = "bad_dump"


class ServerError(TorchctlError):
    """The worker-side server cannot start."""

    kind = "server"


class AddressInUseError(ServerError):
    """A live server already holds the address; the message names its owner."""

    kind = "address_in_use"
    hint = "stop that process, or give each worker its own path: {rank}, {local_rank} and {pid} are filled in"


class NoWorkersError(TorchctlError):
    """No worker was found to talk to."""

    exit_code = EXIT_UNREACHABLE
    kind = "no_workers"
    hint = "start the job with `python -m torchctl.server train.py`, or name a worker with --socket or --host"


class StoreError(TorchctlError):
    """A store refused the request, or its contents do not allow it."""

    kind = "store"


class KeyAbsentError(StoreError):
    """The key does not exist."""

    kind = "no_such_key"
    hint = "`torchctl store keys` lists what is there; a namespace goes in --prefix"


class NotACounterError(StoreError, ValueError):
    """The key that should be a counter holds something else."""

    kind = "no_counter"
    hint = "check the key prefix: `torchctl store get KEY` shows what is there"


class StoreUnreachableError(StoreError):
    """No TCPStore answers at the address, or the connection to it was lost."""

    exit_code = EXIT_UNREACHABLE
    kind = "no_store"
    hint = "the job's store is at the MASTER_ADDR:MASTER_PORT in its environment; rank 0 or the agent hosts it"


class StoreTimeoutError(StoreError):
    """A key or a rank did not arrive before the deadline."""

    exit_code = EXIT_DEADLINE
    kind = "timeout"


class StoreInterruptedError(StoreError):
    """The operator interrupted a wait."""

    exit_code = 130
    kind = "interrupted"


class WorkerError(TorchctlError):
    """One worker could not be asked, or did not give a usable answer.

    Args:
        detail: what happened, read after the endpoint: "refused the connection".
        endpoint: the address that was asked, as shown to the operator.
        rank: the worker's global rank, None if unknown.

    Attributes:
        blocked: whether something keeps its process from answering; None if unknown.
        why: what that is, or what the process is doing instead; "" if unknown.
    """

    kind = "worker"
    blocked: bool | None = None
    why = ""

    def __init__(self, detail: str, *, endpoint: str, rank: int | None = None, hint: str | None = None) -> None:
        self.detail = detail
        self.endpoint = endpoint
        self.rank = rank
        super().__init__(f"{endpoint} {detail}", hint=hint)

    def because(self, cause: str) -> None:
        """Append the cause to the message."""
        self.detail = f"{self.detail}; {cause}"
        self.message = f"{self.endpoint} {self.detail}"

    def __str__(self) -> str:
        return self.message if self.rank is None else f"rank {self.rank}: {self.message}"


class UnreachableError(WorkerError):
    """No connection, or the other end does not speak our protocol."""

    exit_code = EXIT_UNREACHABLE
    kind = "unreachable"
    hint = "check the address, the network and the firewall between here and the worker"


class NoSuchSocketError(UnreachableError):
    """No file at the socket's path."""

    kind = "no_such_socket"
    hint = "check the path, and that the job runs on this host; `torchctl ps` lists the workers it finds"


class RefusedError(UnreachableError):
    """The address exists, but nothing listens there."""

    kind = "refused"
    hint = "the process has ended or never started its server; check the job's log"


class AccessDeniedError(UnreachableError):
    """The operating system, or the server's token check, refuses us."""

    kind = "permission"
    hint = "run as the user who owns the job, or give the server's token: TORCHCTL_TOKEN, or --token-file"


class BusyError(UnreachableError):
    """The worker's backlog or its connection table is full."""

    kind = "busy"
    hint = "try again in a few seconds; if it is still busy, the process may be stopped or stuck in C code"


class DegradedError(UnreachableError):
    """The worker cannot answer; its sentinel says why, but cannot provide what was requested."""

    kind = "degraded"
    hint = (
        "`torchctl traceback` shows where it is, read from outside;"
        " `torchctl doctor PID` shows everything known about it"
    )


class UnknownHostError(UnreachableError):
    """The host name does not resolve."""

    kind = "name_not_found"
    hint = "check the spelling, or use the address"


class CertificateError(UnreachableError):
    """The certificate does not prove that this is the worker; nothing was sent to it."""

    kind = "certificate"
    hint = "--ca names the CA that signed the workers' certificates; each must name its host as you typed it"


class NotAWorkerError(UnreachableError):
    """Whatever listens there is not a torch or torchctl worker server."""

    kind = "not_a_worker"
    hint = "check the address: a worker answers `GET /handler/` with a JSON list of handlers"


class TooLargeError(WorkerError):
    """The reply is over the size limit."""

    kind = "too_large"
    hint = "ask for less: no stack traces, fewer entries, a shorter profile"


class HandlerError(WorkerError):
    """The worker answered, but its handler failed; `status` is the HTTP status."""

    exit_code = EXIT_HANDLER
    kind = "handler_failed"
    hint = "`torchctl handlers` lists what this worker offers"

    def __init__(
        self, detail: str, *, endpoint: str, status: int, rank: int | None = None, hint: str | None = None
    ) -> None:
        self.status = status
        super().__init__(detail, endpoint=endpoint, rank=rank, hint=hint)


class NoSuchHandlerError(HandlerError):
    """The worker has no handler of that name."""

    kind = "no_such_handler"


class DeadlineError(WorkerError):
    """No full answer before the deadline."""

    exit_code = EXIT_DEADLINE
    kind = "timeout"
    hint = (
        "the process may be stopped, or its interpreter lock may be held: try a longer --timeout,"
        " then `torchctl doctor PID` on its host"
    )


class NotAskedError(DeadlineError):
    """This worker was not asked: the deadline passed while it waited for a free connection."""

    kind = "not_asked"
    hint = "try a longer --timeout or more connections at once (--jobs)"


class StoppedError(WorkerError):
    """The command was interrupted before this worker answered."""

    exit_code = EXIT_INTERRUPTED
    kind = "interrupted"
