"""A store that only writes down what is asked of it: no `check`, answers made up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


class RecordingStore:
    """Answers every `add` with 3, every `get` with "value"; `wait_errors` are raised first, one per wait."""

    def __init__(self, *wait_errors: Exception | None) -> None:
        self.ops: list[tuple[Any, ...]] = []
        self.wait_errors = list(wait_errors)

    @property
    def timeout(self) -> timedelta:
        self.ops.append(("timeout",))
        return timedelta(seconds=1234)

    def set_timeout(self, timeout: timedelta) -> None:
        self.ops.append(("set_timeout", timeout.total_seconds()))

    def set(self, key: str, value: Any) -> None:
        self.ops.append(("set", key, value))

    def get(self, key: str) -> bytes:
        self.ops.append(("get", key))
        return b"value"

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.ops.append(("multi_get", keys))
        return [b"value"] * len(keys)

    def add(self, key: str, amount: int) -> int:
        self.ops.append(("add", key, amount))
        return 3

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        self.ops.append(("wait", keys, *([] if timeout is None else [timeout.total_seconds()])))
        if self.wait_errors and (error := self.wait_errors.pop(0)) is not None:
            raise error
