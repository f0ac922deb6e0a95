"""Load bytes into plain Python objects without calling anything. Runs in the limited child only.

How this works. A dump holds only built-in types: no GLOBAL and no REDUCE opcode (torch's C++ pickler,
protocol 2). So the unpickler refuses every global and every persistent id, and the rest of the pickle
machine can build only lists, tuples, dicts, sets, text and numbers. It can still ask for any amount of memory
(nine bytes: LONG_BINPUT with a large index) or time; the child's limits stop that.
"""

from __future__ import annotations

import io

# Only the C module: `pickle` would import re, struct and more, which costs 4 ms on every run.
from _pickle import Unpickler, UnpicklingError

# Importing `typing` would cost the decoding child 4 ms; type checkers treat this name as the real one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FOREIGN = (
    (b"\x1f\x8b", "is compressed with gzip", "unpack it with gunzip first"),
    (b"\xfd7zXZ", "is compressed with xz", "unpack it with unxz first"),
    (b"BZh", "is compressed with bzip2", "unpack it with bunzip2 first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it with unzstd first"),
    (b"PK\x03\x04", "is a zip archive, such as torch.save writes", ""),
    (b"\x89PNG", "is a PNG picture", ""),
    (b"\x7fELF", "is an executable or a library", ""),
)


class Refused(Exception):
    """The bytes are refused; the message is a sentence without its subject."""


class RefusingUnpickler(Unpickler):
    """Builds built-in types; calls nothing and imports nothing."""

    def find_class(self, module: str, name: str) -> object:
        raise Refused(f"asks to load {module[:80]}.{name[:80]}, which no flight-recorder dump does")

    def persistent_load(self, pid: object) -> object:
        raise Refused("asks for an object by persistent id, which no flight-recorder dump does")


def load(data: bytes) -> object:
    """Return the object in a dump's bytes; the first byte decides between pickle and JSON.

    Raises:
        Refused: the bytes are empty, truncated, foreign, or would call something.
        MemoryError: they need more memory than the process may have.
    """
    if not data.strip(b"\0 \t\r\n"):
        raise Refused("is empty" if not data else "contains only whitespace")
    if data[:1] == b"\x80":
        return load_pickle(data)
    for magic, sentence, hint in _FOREIGN:
        if data.startswith(magic):
            raise Refused(f"{sentence}, not a flight-recorder dump" + (f"; {hint}" if hint else ""))
    body = data.removeprefix(b"\xef\xbb\xbf")
    if body.lstrip(b" \t\r\n")[:1] == b"{":
        return load_json(body)
    raise Refused("is not a flight-recorder dump: it is neither a pickle nor a JSON object")


def load_pickle(data: bytes) -> object:
    """Return the object in one pickle; raises as `load` does."""
    reader = reader_of(data)
    return run(RefusingUnpickler(reader), reader, len(data))


def reader_of(data: bytes) -> io.BufferedReader[Any]:
    """Return a file to unpickle from, because an Unpickler subclass is 3.5 times slower on a BytesIO (no peek)."""
    return io.BufferedReader(io.BytesIO(data), buffer_size=min(max(len(data), 4096), 1 << 20))


def run(unpickler: Unpickler, reader: io.BufferedReader[Any], size: int) -> object:
    """Run an unpickler over all of `reader` and turn its errors into `Refused`."""
    try:
        value: object = unpickler.load()
    except (Refused, MemoryError):
        raise
    except EOFError:
        raise Refused(f"is cut short: the pickle does not end within its {size} bytes") from None
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except UnpicklingError as error:
        if "truncated" in str(error):
            raise Refused(f"is cut short: the pickle does not end within its {size} bytes") from None
        raise Refused(f"is not a readable pickle: {error}") from None
    except Exception as error:
        # A malformed pickle can fail in any way: TypeError, IndexError, ValueError and so on.
        raise Refused(f"is not a readable pickle: {type(error).__name__}: {str(error)[:200]}") from None
    rest = size - reader.tell()
    if rest:
        raise Refused(f"has {rest} bytes after the end of its pickle")
    return value


def load_json(data: bytes) -> object:
    """Return the object in a JSON text; raises as `load` does."""
    import json

    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Refused(f"is not readable JSON: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
            raise Refused(f"is cut short: the JSON does not end within its {len(data)} bytes") from None
        raise Refused(f"is not readable JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise Refused("is not readable JSON: it contains a number with thousands of digits") from None


def _refuse_constant(name: str) -> object:
    raise Refused(f"is not readable JSON: {name} is not a JSON number")
