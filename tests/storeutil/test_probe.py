"""Which of a name's addresses is told about when none is a store."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from torchctl.storeutil.probe import probe_store, worst_error


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH])
def test_an_address_family_that_is_off_says_nothing_beside_a_refusal(code: int) -> None:
    off, refused = OSError(code, os.strerror(code)), ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert worst_error([off, refused], "h", 1, 1) is refused
    assert worst_error([off], "h", 1, 1) is off
    denied = PermissionError(errno.EACCES, "denied")
    assert worst_error([refused, off, denied], "h", 1, 1) is denied


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_what_no_name_can_look_like_does_not_resolve(host: str) -> None:
    with pytest.raises(socket.gaierror, match="is not a host name"):
        probe_store(host, 1, 1)
