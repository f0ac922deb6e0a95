"""When a line was written: the time in it, in the formats that logs have.

Times without a year are common (glog, syslog), so a moment is a second within a year, and two moments are compared the
short way round. Times with a zone and times without one are not compared with each other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# 2026-11-26T13:42:07.123Z, 2026-11-26 13:42:07,123, with or without brackets.
STAMP = r"\[?\d{4}[-/]\d\d[-/]\d\d[T _]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z| ?[+-]\d\d:?\d\d| UTC)?\]?"
_FULL = re.compile(
    r"(?<!\d)\d{4}[-/](?P<month>\d\d)[-/](?P<day>\d\d)[T _](?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)(?P<part>[.,]\d{1,9})?"
    r"(?P<zone>Z| ?[+-]\d\d:?\d\d(?!\d)| UTC)?"
)
_GLOG = re.compile(
    r"[\[ ]?[IWEFCDV](?P<month>\d\d)(?P<day>\d\d) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)(?P<part>\.\d{1,9})?"
)
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMED = re.compile(
    rf"(?P<name>{'|'.join(_NAMES)}) {{1,2}}(?P<day>\d{{1,2}}) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)(?P<part>\.\d{{1,9}})?"
)
_WITHIN = 200  # characters from the start of a line
_DAYS = (0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335)
_YEAR_S = 366 * 86400.0


class Moment(NamedTuple):
    """A second within a year; `zoned` if the text says the zone, and then in UTC."""

    second: float
    zoned: bool

    def minus(self, other: Moment) -> float | None:
        """Return the seconds since another moment; None if the two cannot be compared."""
        if self.zoned != other.zoned:
            return None
        return (self.second - other.second + _YEAR_S / 2) % _YEAR_S - _YEAR_S / 2


def moment_of(text: str) -> Moment | None:
    """Return the first moment at the start of a line; None if there is none."""
    text = text[:_WITHIN]
    for pattern in (_FULL, _GLOG, _NAMED):
        if match := pattern.search(text):
            parts = match.groupdict()
            month = _NAMES.index(parts["name"]) + 1 if parts.get("name") else int(parts["month"])
            day = int(parts["day"])
            if not (1 <= month <= 12 and 1 <= day <= 31):
                return None
            second = (
                (_DAYS[month - 1] + day) * 86400.0 + int(parts["h"]) * 3600 + int(parts["m"]) * 60 + int(parts["s"])
            )
            second += float("0" + (parts["part"] or ".0").replace(",", "."))
            zone = parts.get("zone")
            return Moment((second - _offset_s(zone.strip())) % _YEAR_S if zone else second % _YEAR_S, bool(zone))
    return None


def _offset_s(zone: str) -> int:
    if zone in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "")
    return (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)
