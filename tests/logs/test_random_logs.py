"""Logs of anything: no exception, no long time, and nothing certain."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from torchctl.diagnosis.findings.died import first_failure
from torchctl.logs.patterns import TABLE
from torchctl.logs.reader import LogReader
from torchctl.logs.said import Log, Speaker
from torchctl.logs.together import facts_of

PREFIXES = st.sampled_from(["", "[rank1]: ", "[default2]:", "3: ", "node1: ", "[pod/a-1/b] ", "\r", "\x1b[31m"])
LINES = st.one_of(
    st.sampled_from([pattern.example for pattern in TABLE]),
    st.sampled_from(['  File "/job/a.py", line 8, in step', "    go()", "ValueError: x", "", "step 1"]),
    st.text(max_size=80),
)
LOGS = st.lists(st.tuples(PREFIXES, LINES), max_size=30)


def read(lines: list[tuple[str, str]], name: str, by: int) -> Log:
    reader = LogReader(Speaker(name))
    data = "\n".join(prefix + line for prefix, line in lines).encode("utf-8", "surrogatepass")
    for at in range(0, len(data), by):
        reader.feed(data[at : at + by])
    return reader.finish()


@settings(deadline=None, max_examples=150)
@given(st.lists(LOGS, min_size=1, max_size=3), st.sampled_from([1, 13, 1 << 20]))
def test_any_lines_of_the_table_in_any_order(logs: list[list[tuple[str, str]]], by: int) -> None:
    began = time.process_time()
    facts = facts_of([read(lines, f"{number}.log", by) for number, lines in enumerate(logs)])
    findings, unknown = first_failure(facts, hang_known=False)
    assert {finding.confidence for finding in findings} <= {"likely", "possible"}
    assert all(finding.summary and finding.evidence for finding in findings)
    assert all(unknown)
    assert time.process_time() - began < 10
