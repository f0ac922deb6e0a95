"""torch's own error classes, created and recognized without importing torch before a store is used."""

from __future__ import annotations


def store_error(message: str) -> RuntimeError:
    """Return a DistStoreError: a key or a rank did not arrive in time."""
    from torch.distributed import DistStoreError

    error: RuntimeError = DistStoreError(message)
    return error


def network_error(message: str) -> RuntimeError:
    """Return a DistNetworkError: there is no store, or the connection was lost."""
    from torch.distributed import DistNetworkError

    error: RuntimeError = DistNetworkError(message)
    return error


def is_network_error(error: BaseException) -> bool:
    """Return True if `error` means that the connection to the store was lost."""
    if not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistNetworkError

    return isinstance(error, DistNetworkError)


def is_silence(error: BaseException) -> bool:
    """Return True if a TCPStore did not answer within the limit of `patience.answers_within`.

    Source: torch/csrc/distributed/c10d/Utils.hpp, SYSCHECK (2.13), for the error that EAGAIN becomes.
    """
    return is_network_error(error) and str(error).startswith("Socket Timeout")


def is_timeout(error: BaseException) -> bool:
    """Return True if a store raised `error` because a key did not arrive in time.

    TCPStore and HashStore raise DistStoreError, FileStore a bare RuntimeError (as of torch 2.13), a custom store
    perhaps TimeoutError. A lost connection is not a timeout.
    """
    if isinstance(error, TimeoutError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistNetworkError, DistStoreError

    if isinstance(error, DistNetworkError):
        return False
    return isinstance(error, DistStoreError) or "timeout" in str(error).lower()
