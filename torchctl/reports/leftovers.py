"""Files that gave no evidence, and why: archives, core files, logs without stacks."""

from __future__ import annotations

import os
import re

from torchctl.diagnosis.evidence import ARCHIVE, NOT_READ, Unread
from torchctl.reports.content import head, is_packed

_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh", b"7z\xbc\xaf\x27\x1c")
_PACKED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_DUMPS = (b"\x80", b"{")  # a pickle, and JSON
# Files that belong in a job's folder and are never evidence: not worth a message.
_USUAL = re.compile(
    r"(?i)(?:\.(?:md|rst|ya?ml|toml|cfg|ini|py|sh|csv|html?|svg|png|lock|jsonl?|died|ended)"
    r"|(?:\A|.*[-_.])info(?:[-_.].*)?\.json)\Z|\Ahostfile|\AREADME|\ALICENSE"
)
_LOG = re.compile(r"(?i)\.(?:log|out|err|txt|stdout|stderr)(?:\.\d+)?\Z")


def is_dump_at_all(path: str) -> bool:
    """Whether a file starts like a recorder's dump, or cannot be read."""
    begins = head(path)
    return begins is None or begins.lstrip()[:1] in _DUMPS


def is_archive(path: str) -> bool:
    begins = head(path)
    return begins is not None and (begins.startswith(_ARCHIVES) or begins[257:262] == b"ustar")


def is_log(path: str) -> bool:
    return _LOG.search(os.path.basename(path)) is not None


def may_be_log(path: str) -> bool:
    """Whether a file in which nothing else was found may be a log: text, by its first bytes, or one compressed file."""
    begins = head(path)
    if not begins or _USUAL.search(os.path.basename(path)):
        return False
    if is_packed(path):
        return begins.startswith(_PACKED)
    return b"\0" not in begins and not is_archive(path)


def why_not_read(path: str, rank: int | None = None) -> Unread | None:
    """Return why a file gave no evidence, or None if no one would expect any."""
    name = os.path.basename(path)
    begins = head(path)
    if begins is None:
        return Unread(path, rank, "cannot be read", NOT_READ)
    if is_archive(path):
        return Unread(path, rank, f"{ARCHIVE}: unpack it, and diagnose the folder", NOT_READ)
    if begins.startswith(b"\x7fELF"):
        return Unread(path, rank, "is a core file or a program, not a dump of a flight recorder", NOT_READ)
    if _USUAL.search(name):
        return None
    if not begins:
        return Unread(path, rank, "is empty", NOT_READ)
    if _LOG.search(name):
        return Unread(path, rank, "is a log without stacks that shows no failure and no hang", NOT_READ)
    return Unread(path, rank, "is neither a dump of a flight recorder nor stacks", NOT_READ)
