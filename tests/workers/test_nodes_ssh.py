"""Workers of other hosts through real sshds on loopback: straight, and through the gateways of a topology."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from tests.sshd import ssh_hosts
from tests.stacks.texts import STUCK, WAITING, dump
from torchctl.cli import cli

pytestmark = pytest.mark.once

REMOTE = ["--remote", f"{sys.executable} -m torchctl"]
HOSTS = ["n1", "n2", "n3", "n4"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def calls(folder: Path) -> list[str]:
    """Return who has called whom by ssh, sorted."""
    return sorted((folder / "calls").read_text().splitlines())


@contextlib.contextmanager
def workers(folder: Path, big: int = 0) -> Iterator[None]:
    """Run a rank on each of the four hosts, the third stuck elsewhere; with `big` every call gets that many bytes."""
    with contextlib.ExitStack() as stack:
        for rank, host in enumerate(HOSTS):
            headers = f"Torchctl-Rank: {rank}\r\nTorchctl-World-Size: 4\r\nTorchctl-Job: j\r\n".encode()
            body = b"x" * big if big else dump(rank, STUCK if rank == 2 else WAITING)
            path = folder / host / f"rank{rank}-{rank + 100}.sock"
            path.unlink(missing_ok=True)
            stack.enter_context(listening(str(path), listeners.reply(body, headers=headers)))
        yield


def topology(folder: Path, gateways: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this host the root of a tree in which `gateways` lead to the four hosts."""
    settings = folder / "clustershell"
    settings.mkdir()
    root = os.uname().nodename.split(".")[0]
    (settings / "topology.conf").write_text(f"[routes]\n{root}: {gateways}\n{gateways}: n[1-4]\n")
    monkeypatch.setenv("CLUSTERSHELL_CFGDIR", str(settings))


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_each_host_answers_or_says_why_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_hosts(folder, HOSTS, locked=["bad"], silent=["deaf"]) as environment, workers(folder):
        use(environment, monkeypatch)
        result = run("traceback", "--nodes", "n[1-4],bad,nowhere", *REMOTE, "--timeout", "60", "--json")
        silent = run("traceback", "--nodes", "deaf", *REMOTE, "--timeout", "2", "--json")
        lost = run("ping", "--nodes", "n[1-2]", "--remote", "/does/not/exist", "--timeout", "30")
        other = run("ping", "--nodes", "n1", "--remote", f"{sys.executable} -m torchctl_of_old", "--timeout", "30")
    document = json.loads(result.stdout)
    assert [(one["rank"], one["endpoint"].partition(":")[0]) for one in document["workers"]] == list(enumerate(HOSTS))
    kinds = {one["endpoint"]: one["kind"] for one in document["failures"]}
    assert kinds == {"bad": "no_login", "nowhere": "name_not_found"}
    assert "Permission denied" in result.stderr
    assert result.exit_code == 3
    assert [one["kind"] for one in json.loads(silent.stdout)["failures"]] == ["host_timeout"]
    assert silent.exit_code == 5
    assert lost.stderr.count("has no torchctl: ") == 2
    assert "n1 has no torchctl: " in other.stderr
    assert "here n1" in calls(folder)


def test_nobody_listens_where_sshd_should(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_hosts(folder, ["n1"]) as environment:
        use(environment, monkeypatch)
    result = run("ping", "--nodes", "n1", *REMOTE, "--timeout", "30")
    assert "n1 cannot be reached: ssh: connect to host 127.0.0.1 port" in result.stderr
    assert result.exit_code == 3


def test_a_topology_sends_the_relays_through_its_gateways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology(folder, "gw[1-2]", monkeypatch)
    with ssh_hosts(folder, ["gw1", "gw2", *HOSTS]) as environment:
        use(environment, monkeypatch)
        with workers(folder):
            result = run("traceback", "--nodes", "n[1-4]", *REMOTE, "--timeout", "60")
        assert calls(folder) == ["gw1 n1", "gw1 n3", "gw2 n2", "gw2 n4", "here gw1", "here gw2"]
        with workers(folder, big=3_000_000):
            large = run("call", "big", "--nodes", "n[1-2]", *REMOTE, "--timeout", "60", "--output", f"{folder}/reply")
    assert "4 ranks answered of 4, job j" in result.stdout
    assert "├─ 1 rank: 2" in result.stdout
    assert (result.exit_code, result.stderr) == (0, "")
    assert large.exit_code == 0, large.stderr
    assert {path.stat().st_size for path in folder.glob("reply*")} == {3_000_000}


@pytest.mark.parametrize(
    ("gateways", "names", "silent"),
    [("gw[1-2]", ["gw1"], ["gw2"]), ("gone[1-2]", [], [])],
    ids=["one of two is silent", "none can be found"],
)
def test_hosts_behind_a_lost_gateway_are_reached_another_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gateways: str, names: Sequence[str], silent: Sequence[str]
) -> None:
    topology(folder, gateways, monkeypatch)
    with ssh_hosts(folder, [*names, *HOSTS], silent=silent) as environment, workers(folder):
        use(environment, monkeypatch)
        began = time.monotonic()
        result = run("traceback", "--nodes", "n[1-4]", *REMOTE, "--timeout", "20")
        assert time.monotonic() - began < 90
    assert "4 ranks answered of 4, job j" in result.stdout, result.stderr
    assert result.exit_code == 0


def test_a_gateway_whose_python_lacks_clustershell_is_gone_round(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology(folder, "gw1", monkeypatch)
    monkeypatch.setenv("CLUSTERSHELL_GW_PYTHON_EXECUTABLE", f"{sys.executable} -S")
    with ssh_hosts(folder, ["gw1", *HOSTS]) as environment, workers(folder):
        use(environment, monkeypatch)
        result = run("traceback", "--nodes", "n[1-4]", *REMOTE, "--timeout", "60")
    assert "4 ranks answered of 4, job j" in result.stdout, result.stderr
    assert calls(folder) == ["here gw1", *(f"here {host}" for host in HOSTS)]


def test_a_gateway_that_answers_and_falls_silent_ends_with_the_deadline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology(folder, "gw1", monkeypatch)
    silent = folder / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setenv("CLUSTERSHELL_GW_PYTHON_EXECUTABLE", str(silent))
    with ssh_hosts(folder, ["gw1", *HOSTS]) as environment, workers(folder):
        use(environment, monkeypatch)
        began = time.monotonic()
        result = run("traceback", "--nodes", "n[1-2]", *REMOTE, "--timeout", "2")
        assert time.monotonic() - began < 90
    assert result.exit_code == 5
    assert result.stderr.count("did not answer within ") == 2
