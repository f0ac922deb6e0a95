"""Reading never waits for what is not there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.stores import connect, host_store
from torchctl.errors import StoreError
from torchctl.storeutil.operator.reading import list_keys, read_values

pytestmark = pytest.mark.torch


def test_absent_keys_are_left_out() -> None:
    server = host_store()
    server.set("a", "1")
    assert read_values(server, ["a", "b"]) == {"a": b"1"}
    assert read_values(server, []) == {}


def test_a_key_that_vanishes_between_the_look_and_the_read_counts_as_absent() -> None:
    server = host_store()
    client = connect(server)

    class Vanishing:
        """A client whose look at the keys is followed by a deletion elsewhere."""

        looks = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        @property
        def timeout(self) -> Any:
            return client.timeout

        def check(self, keys: list[str]) -> bool:
            self.looks += 1
            answer: bool = client.check(keys)
            if self.looks == 1:
                server.delete_key("b")
            return answer

    for key in ("a", "b"):
        server.set(key, key)
    start = time.monotonic()
    assert read_values(Vanishing(), ["a", "b"]) == {"a": b"a"}
    assert time.monotonic() - start < 90
    assert client.timeout.total_seconds() == 60


def test_a_store_that_cannot_list_gets_a_sentence() -> None:
    from torch.distributed import Store

    with pytest.raises(StoreError, match="this store cannot list its keys"):
        list_keys(Store())

    with pytest.raises(StoreError, match="this torch cannot list"):
        list_keys(object())  # type: ignore[arg-type]
