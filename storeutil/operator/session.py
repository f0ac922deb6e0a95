"""One command's connection to a store: probed first, with every operation bounded and interruptible.

How this works: torch's client blocks in C++, ignores Ctrl-C, and has no time limit while the store's process is
stopped. So operations run in a separate thread, while the main thread waits for it to finish, for Ctrl-C, or
for the limit. Ctrl-C sets a `stop` event that the operation checks several times a second; it then cleans up
and raises. A thread that does not return is abandoned: it is a daemon, and ends with the process, which exits
without unloading torch (`cli.main`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from torchctl.errors import StoreError, StoreInterruptedError, StoreTimeoutError, StoreUnreachableError
from torchctl.storeutil.errors import is_network_error, is_silence, is_timeout
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.operator.hosting import host_store
from torchctl.storeutil.probe import probe_store
from torchctl.storeutil.waiting import MOST_KEYS
from torchctl.text import duration, host_port

T = TypeVar("T")
Operation = Callable[[OperatorStore, threading.Event], T]

CONNECT_S = 5.0  # a store answers in a millisecond plus the round trip; after this much silence it is not a store
ANSWER_S = 5.0  # for an answer from a connected store, and for operations that do not wait for other ranks
WIND_UP_S = 2.0  # after Ctrl-C, to withdraw what was written, while the store answers
_SOON_S = 0.05  # after Ctrl-C, before probing whether the store answers at all
_PROBE_S = 0.25  # for that probe: together with the pause above, well within half a second
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def look_s(world_size: int) -> int:
    """Return the limit, in seconds, for checking every rank: two requests each, at 0.5 ms per request."""
    return int(ANSWER_S) + min(world_size, MOST_KEYS) // 1000


class StoreSession:
    """The store at a host and port, connected on first use.

    Args:
        namespace: prefix of every key (torch's PrefixStore); empty for none.
        debug: let torch's C++ log lines through to stderr.
    """

    def __init__(self, host: str, port: int, namespace: str = "", *, debug: bool = False) -> None:
        self.port = port
        self.namespace = namespace
        self.debug = debug
        self._store: OperatorStore | None = None
        self._host = host
        self._address: str | None = None

    @property
    def name(self) -> str:
        """Where the store is, for messages: HOST:PORT."""
        return host_port(self._host, self.port)

    def probe(self, limit_s: float = CONNECT_S) -> None:
        """Check that a TCPStore answers within `limit_s` seconds, without torch.

        Raises:
            StoreUnreachableError: none does; the message says what happened instead.
        """
        where = f"the store {self.name}"
        try:
            self._address = probe_store(self._host, self.port, limit_s)
        except socket.gaierror as error:
            raise StoreUnreachableError(
                f"{where}: the host name does not resolve", hint="check the spelling, or use the address"
            ) from error
        except ConnectionRefusedError as error:
            raise StoreUnreachableError(f"{where} refused the connection: nothing is listening there") from error
        except OSError as error:
            raise StoreUnreachableError(f"{where}: {error.strerror or error}") from error

    def host(self) -> None:
        """Host the store in this process, at its port, or at a free one if the port is 0.

        Raises:
            StoreError: the port is taken.
        """
        import_torch(debug=self.debug)
        store = host_store(self.port, CONNECT_S)
        self.port = store.port
        self._address = "localhost"
        self._store = self._namespaced(store)

    def run(self, operation: Operation[T], *, changes: bool = False, limit_s: float = ANSWER_S) -> T:
        """Return ``operation(store, stop)``.

        Args:
            changes: the operation changes the store, so its outcome is reported even after Ctrl-C. A read-only one
                ends in KeyboardInterrupt even if it finished, so that no write follows it.
            limit_s: seconds after which to give up on a store that does not answer.

        Raises:
            StoreUnreachableError: there is no store, or the connection was lost on the way.
            StoreTimeoutError: the limit passed.
            StoreInterruptedError: Ctrl-C; the message says what was left behind.
            KeyboardInterrupt: Ctrl-C, and nothing was written.
        """
        if self._address is None:
            self.probe()
        import_torch(debug=self.debug)
        stop, done = threading.Event(), threading.Event()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                with self.translated():
                    outcome.append(operation(self._connected(), stop))
            except BaseException as error:
                failure.append(error)
            done.set()

        # Not Thread.join: if interrupted, it assumes that the thread has ended (Python 3.11).
        thread = threading.Thread(target=work, name="torchctl-store", daemon=True)
        try:
            thread.start()
            done.wait(limit_s)
        except KeyboardInterrupt:
            stop.set()
            # Ignore a second Ctrl-C while what was written is withdrawn and, if that ends the command, until it exits.
            before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
            if not done.wait(_SOON_S) and not (self._answers() and done.wait(WIND_UP_S)):
                raise StoreInterruptedError(
                    f"interrupted; the store {self.name} does not answer; anything already written stays"
                ) from None
            if not failure:
                if not changes:
                    raise
                for number, handler in before.items():
                    signal.signal(number, handler)
        if not done.is_set():
            raise self._silent(limit_s)
        if failure:
            raise failure[0]
        return outcome[0]

    def _unreadable(self, error: Exception) -> StoreError:
        """Return the error for an answer that torch's client could not parse, perhaps due to its absurd length."""
        return StoreError(
            f"the store {self.name} sent an answer that cannot be read: {_first_line(error)}",
            hint="what listens there may not be a TCPStore, or may be another version of it",
        )

    def _silent(self, seconds: float) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"the store {self.name} accepted the connection and did not answer for {duration(seconds)}",
            hint="the process that hosts it may be stopped: look at rank 0, or the agent on its host",
        )

    def _answers(self) -> bool:
        """Return whether the store answers at once."""
        try:
            probe_store(self._address or self._host, self.port, _PROBE_S)
        except OSError:
            return False
        return True

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what torch raises into our errors, with the store's address."""
        try:
            yield
        except RuntimeError as error:
            if is_silence(error):
                raise self._silent(ANSWER_S) from error
            if is_network_error(error) and self._answers():
                raise StoreError(
                    f"the store {self.name} answers, but closed the connection over this request: {_first_line(error)}",
                    hint="a store refuses values over 8 MiB, and to add to a value that is not a number",
                ) from error
            if is_network_error(error):
                raise StoreUnreachableError(
                    f"the store {self.name} was lost: {_first_line(error)}",
                    hint="the process that hosted it has ended, or closed the connection; look at its log",
                ) from error
            if isinstance(error, NotImplementedError):
                raise StoreError(f"the store {self.name} does not support this: {_first_line(error)}") from error
            if is_timeout(error):
                raise StoreTimeoutError(f"the store {self.name}: {_first_line(error)}") from error
            raise
        except (MemoryError, OverflowError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise self._unreadable(error) from error

    def _connected(self) -> OperatorStore:
        if self._store is None:
            from torch.distributed import TCPStore

            store = TCPStore(
                host_name=self._address,
                port=self.port,
                is_master=False,
                timeout=timedelta(seconds=CONNECT_S),
                wait_for_workers=False,
            )
            self._store = self._namespaced(store)
        return self._store

    def _namespaced(self, store: OperatorStore) -> OperatorStore:
        from torch.distributed import PrefixStore

        return PrefixStore(self.namespace, store) if self.namespace else store


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C, even if code in the block turns it into another error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in _SIGNALS
        if signal.getsignal(number) is signal.default_int_handler
    }
    try:
        yield
    except BaseException:
        if heard:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt


def import_torch(*, debug: bool) -> None:
    """Import torch's stores, silently unless `debug`.

    torch's C++ code reads `TORCH_CPP_LOG_LEVEL` when it is loaded. A TCPStore looks up the name of its peer, which
    takes 5 s if the resolver drops packets: we have already resolved our addresses, so we tell the resolver not to
    try.
    """
    if not debug:
        os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
    os.environ.setdefault("RES_OPTIONS", "attempts:0")
    try:
        with _interruptible():
            import torch.distributed as distributed
    except ImportError as error:
        raise StoreError(
            f"torch cannot be imported: {_first_line(error)}",
            hint="store commands need torch: run torchctl in the job's environment",
        ) from error
    if not distributed.is_available():
        raise StoreError("this build of torch has no torch.distributed")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
