"""A real gloo job of which one rank ends and the others die of the broken connection: who went first is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.demo.job import descendants
from tests.live.jobs import forked_job
from tests.sentinels import alive, eventually
from torchctl.cli import cli

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("with_sentinel")]

RANKS = 4
SCRIPT = Path(__file__).with_name("ending_job.py")
PATIENCE_S = 200.0  # beside other tests


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("raise", "failed", f"rank 2 failed first: uncaught ValueError: no rows left in shard 7 ({SCRIPT}:19)"),
        ("kill", "killed", "rank 2 was killed first: SIGKILL"),
        ("3", "failed", "rank 2 failed first: exit code 3"),
        ("0", "rank_lost", "rank 2 ended with exit code 0 while others still needed it"),
    ],
)
def test_the_rank_that_ended_first_is_named_and_not_those_that_lost_it(
    folder: Path, own_environment: Path, how: str, kind: str, says: str
) -> None:
    def arrived() -> bool:
        return all((folder / f"at-{rank}").exists() for rank in range(RANKS))

    def ended() -> bool:
        return len([*own_environment.glob("*.died"), *own_environment.glob("*.ended")]) == RANKS

    environment = {"FOLDER": str(folder), "HOW": how}
    with forked_job(SCRIPT, RANKS, own_environment, environment=environment, arrived=arrived) as leader:
        (folder / "go").touch()
        eventually(lambda: sum(map(alive, descendants(leader))) == 1, PATIENCE_S)  # the store's host is left
        eventually(ended, PATIENCE_S)
        document = json.loads(run("diagnose", "--json").stdout)
    (finding,) = document["findings"]
    assert document["verdict"].startswith(says), document
    assert (finding["kind"], finding["culprit_ranks"], finding["waiting_ranks"]) == (kind, [2], [0, 1, 3])
    assert finding["confidence"] == "likely"
    assert all("rank 2" not in fact for fact in finding["evidence"][1:]), finding["evidence"]
