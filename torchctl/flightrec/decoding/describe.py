"""Show the structure of an arbitrary pickle as text, without calling anything. Runs in the limited child only.

How this works. Every global that the pickle names becomes an empty class made here. It records its arguments,
state and items, and does nothing else; the real name is never imported or looked up. So `datetime.datetime(...)`
is only shown as text, and so is `os.system('...')`.
"""

from __future__ import annotations

from _pickle import Unpickler
from collections.abc import Iterable, Iterator
from io import BufferedReader
from typing import Any

from torchctl.flightrec.decoding.unpickler import Refused, reader_of, run

MAX_NODES = 5_000
MAX_DEPTH = 30
MAX_STRING = 2_000  # characters shown of one text or byte string
MAX_GLOBALS = 1_000


class Opaque:
    """A placeholder for an object whose class is never loaded."""

    qualified_name = "?"
    args: tuple[object, ...]
    named: dict[str, object]
    state: object
    items: list[object]

    def __new__(cls, *args: object, **named: object) -> Opaque:
        self = object.__new__(cls)
        self.args = args
        self.named = named
        self.state = None
        self.items = []
        return self

    def __init__(self, *args: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        self.items.append(item)

    add = append

    def extend(self, items: list[object]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))


class PersistentId:
    """A placeholder for an object that the pickle references by persistent id."""

    def __init__(self, pid: object) -> None:
        self.pid = pid


class DescribingUnpickler(Unpickler):
    """Builds only built-in types and `Opaque` objects; imports nothing."""

    def __init__(self, file: BufferedReader[Any]) -> None:
        super().__init__(file)
        self._classes: dict[tuple[str, str], type[Opaque]] = {}

    def find_class(self, module: str, name: str) -> object:
        known = self._classes.get((module, name))
        if known is None:
            if len(self._classes) >= MAX_GLOBALS:
                raise Refused(f"names more than {MAX_GLOBALS} different globals")
            known = type("Opaque", (Opaque,), {"qualified_name": f"{module}.{name}"[:200]})
            self._classes[module, name] = known
        return known

    def persistent_load(self, pid: object) -> object:
        return PersistentId(pid)


def describe(data: bytes) -> str:
    """Return one line of text that shows what a pickle contains.

    Raises:
        Refused: the data is not a pickle, is truncated, or is invalid.
    """
    if not data:
        raise Refused("is empty")
    reader = reader_of(data)
    value = run(DescribingUnpickler(reader), reader, len(data))
    try:
        return _Text().show(value)
    except RecursionError:
        raise Refused("is nested too deeply") from None


class _Text:
    """Formats a value as text, up to a maximum depth and node count, and detects cycles."""

    def __init__(self) -> None:
        self._left = MAX_NODES
        self._path: set[int] = set()

    def show(self, value: object) -> str:
        if self._left <= 0 or len(self._path) >= MAX_DEPTH or id(value) in self._path:
            return "..."
        self._left -= 1
        if isinstance(value, type) and issubclass(value, Opaque):
            return f"<class {value.qualified_name}>"
        if type(value) is int:
            bits = value.bit_length()
            return str(value) if bits <= 512 else f"<int of {bits} bits>"
        if isinstance(value, (str, bytes, bytearray)):
            return _short(value)
        if value is None or type(value) in (bool, float):
            return repr(value)
        self._path.add(id(value))
        try:
            return self._container(value)
        finally:
            self._path.discard(id(value))

    def _container(self, value: object) -> str:
        if isinstance(value, Opaque):
            return self._opaque(value)
        if type(value) is PersistentId:
            return f"<persistent id {self.show(value.pid)}>"
        if type(value) is dict:
            return "{" + self._join([f"{self.show(k)}: {self.show(v)}" for k, v in self._few(value.items())]) + "}"
        if type(value) is list:
            return "[" + self._join(map(self.show, self._few(value))) + "]"
        if type(value) is tuple:
            inner = self._join(map(self.show, self._few(value)))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if isinstance(value, (set, frozenset)):
            shown = self._join(sorted(map(self.show, self._few(value))))
            if not shown:
                return f"{type(value).__name__}()"
            return f"{{{shown}}}" if type(value) is set else f"frozenset({{{shown}}})"
        return f"<{type(value).__name__}>"

    def _opaque(self, value: Opaque) -> str:
        parts = [self.show(arg) for arg in self._few(value.args)]
        parts += [f"{_short(key)[1:-1]}={self.show(arg)}" for key, arg in self._few(value.named.items())]
        text = f"<{value.qualified_name}({self._join(parts)})"
        if value.items:
            text += " holding " + self.show(value.items)
        if value.state is not None:
            text += " state " + self.show(value.state)
        return text + ">"

    def _few(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield values until the budget is used up."""
        for value in values:
            yield value
            if self._left <= 0:
                break

    @staticmethod
    def _join(parts: Iterable[str]) -> str:
        return ", ".join(parts)


def _short(value: str | bytes | bytearray) -> str:
    return repr(value) if len(value) <= MAX_STRING else f"{value[:MAX_STRING]!r}... ({len(value)} in all)"
