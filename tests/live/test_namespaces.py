"""Hosts with networks of their own: a good one, one that swallows packets, some without a way, one cut off meanwhile.

How this works: each host is a network namespace of this machine, held by a process. torchctl runs in the hub, from
which a virtual cable leads to each of the good hosts. What is sent to a link address that nobody has vanishes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import DEADLINE_S, Process, running
from tests.sshd import make_keys, program, running_sshd, write_client_config, write_server_config

pytestmark = pytest.mark.once

TOKEN = {"TORCHCTL_TOKEN": "0123456789abcdef"}
PORT = 25000
SWALLOWED, NO_ROUTE, UNREACHABLE, PROHIBITED = "10.77.1.66", "10.88.0.1", "10.89.0.1", "10.90.0.1"

WORKER = """
import sys
from torchctl.server import WorkerServer
servers = [WorkerServer(*address) for address in {addresses!r}]
print("up", flush=True)
sys.stdin.readline()
"""

# Takes a request, says so, and answers when it is told to: by then the cable is cut.
CUT_OFF = """
import socket, sys
server = socket.create_server(("0.0.0.0", {port}))
print("up", flush=True)
connection, _ = server.accept()
connection.recv(65536)
print("asked", flush=True)
sys.stdin.readline()
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\npong")
"""


class Network(NamedTuple):
    """A hub and good hosts: the words that lead a command into their namespaces."""

    hub: list[str]
    hosts: dict[str, list[str]]


def ip(within: Sequence[str], *lines: str) -> None:
    for line in lines:
        command = [*within, "ip", *line.split()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        assert result.returncode == 0, f"{command}: {result.stderr}"


def probe() -> None:
    """Skip where this machine or user has no namespaces, or none of the devices that are put into them."""
    lines = "ip link add one type veth peer name other && ip -6 addr add fd77::1/64 dev one nodad"
    command = ["unshare", "--net", "sh", "-c", f"{lines} && nsenter --net=/proc/$$/ns/net true"]
    try:
        result = subprocess.run(command, capture_output=True, timeout=DEADLINE_S)
    except FileNotFoundError:
        result = None
    if result is None or result.returncode:
        pytest.skip("network namespaces cannot be made here")


def namespace(stack: ExitStack) -> list[str]:
    """Make a network namespace and return what leads a command into it."""
    holder = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.readline()"]
    process = stack.enter_context(running(["unshare", "--net", *holder]))
    process.wait_for("up")
    return ["nsenter", f"--net=/proc/{process.pid}/ns/net"]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    probe()
    with ExitStack() as stack:
        hub = namespace(stack)
        ip(hub, "link set lo up", f"route add unreachable {UNREACHABLE}", f"route add prohibit {PROHIBITED}")
        hosts = {}
        for number, name in enumerate(("n1", "n2", "n3"), start=1):
            hosts[name] = within = namespace(stack)
            ip(within, "link set lo up", "link add eth0 type veth peer name far")
            ip(within, f"link set far netns {holder_pid(hub)}")
            ip(hub, f"link set far name to{number}", f"addr add 10.77.{number}.254/24 dev to{number}")
            ip(hub, f"addr add fd77:{number}::254/64 dev to{number} nodad", f"link set to{number} up")
            ip(within, f"addr add 10.77.{number}.1/24 dev eth0", f"addr add fd77:{number}::1/64 dev eth0 nodad")
            ip(within, "link set eth0 up")
        ip(hub, f"neigh add {SWALLOWED} lladdr 02:00:00:00:00:66 dev to1 nud permanent")
        yield Network(hub, hosts)


def holder_pid(within: Sequence[str]) -> str:
    return within[1].split("/")[2]


def worker(stack: ExitStack, within: Sequence[str], rank: int, addresses: list[tuple[Any, ...]]) -> None:
    environment = {**TOKEN, "RANK": str(rank), "WORLD_SIZE": "2", "TORCHCTL_JOB_ID": "j", "PYTHONPATH": os.getcwd()}
    code = WORKER.format(addresses=addresses)
    stack.enter_context(running([*within, sys.executable, "-c", code], environment)).wait_for("up")


def torchctl(network: Network, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
    """Start torchctl in the hub."""
    settings = {**TOKEN, "PYTHONPATH": os.getcwd(), **(environment or {})}
    return Process([*network.hub, sys.executable, "-m", "torchctl", *arguments], settings)


def kinds(document: dict[str, Any]) -> dict[str, str]:
    found = {one["endpoint"]: one["kind"] for one in document["failures"]}
    return {**found, **{one["endpoint"]: "ok" for one in document["workers"]}}


def test_each_tcp_address_says_why_it_does_not_answer(network: Network) -> None:
    expected = {
        f"10.77.1.1:{PORT}": "ok",
        f"[fd77:2::1]:{PORT}": "ok",
        f"10.77.1.1:{PORT + 1}": "refused",
        f"{SWALLOWED}:{PORT}": "timeout",
        f"{NO_ROUTE}:{PORT}": "unreachable",
        f"{UNREACHABLE}:{PORT}": "unreachable",
        f"{PROHIBITED}:{PORT}": "unreachable",
        "no-such-host.invalid:1": "name_not_found",
        f"10.77.3.1:{PORT}": "timeout",
    }
    with ExitStack() as stack:
        worker(stack, network.hosts["n1"], 0, [("10.77.1.1", PORT)])
        worker(stack, network.hosts["n2"], 1, [("fd77:2::1", PORT)])
        code = CUT_OFF.format(port=PORT)
        cut_off = stack.enter_context(running([*network.hosts["n3"], sys.executable, "-c", code]))
        cut_off.wait_for("up")
        hosts = [word for address in expected for word in ("--host", address)]
        began = time.monotonic()
        command = torchctl(network, "ping", *hosts, "--timeout", "6", "--json")
        stack.callback(command.end)
        cut_off.wait_for("asked")
        ip(network.hub, "link set to3 down")
        cut_off.tell("")
        code_, out, err = command.finish()
        took = time.monotonic() - began
        ip(network.hub, "link set to3 up")
    assert kinds(json.loads(out)) == expected, err
    assert f"{SWALLOWED}:{PORT} did not accept the connection within " in err
    assert f"10.77.3.1:{PORT} accepted the connection and did not answer within" in err
    assert f"{NO_ROUTE}:{PORT} cannot be reached: Network is unreachable" in err
    assert f"{UNREACHABLE}:{PORT} cannot be reached: No route to host" in err
    assert code_ == 3
    assert took < 25


def test_one_address_that_is_swallowed_or_has_no_way_is_said_in_time(network: Network) -> None:
    for address, words, code in (
        (SWALLOWED, "did not accept the connection within ", 5),
        (NO_ROUTE, "cannot be reached: Network is unreachable", 3),
    ):
        began = time.monotonic()
        command = torchctl(network, "ping", "--host", f"{address}:{PORT}", "--timeout", "2")
        code_, out, err = command.finish()
        command.end()
        assert (code_, out) == (code, "")
        assert words in err
        assert time.monotonic() - began < 90


def test_the_relays_of_hosts_behind_a_command_of_ones_own(network: Network, folder: Path) -> None:
    with ExitStack() as stack:
        for rank, name in enumerate(("n1", "n2")):
            (folder / name).mkdir(mode=0o700)
            worker(stack, network.hosts[name], rank, [(str(folder / name / f"rank{rank}-1.sock"),)])
        script = folder / "into"
        cases = "".join(f'  {name}) set -- {" ".join(words)} "$@";;\n' for name, words in network.hosts.items())
        there = f'exec env TORCHCTL_RUNTIME_DIR={folder}/$host "$@"'
        script.write_text(f"#!/bin/sh\nhost=$1; shift\ncase $host in\n{cases}esac\n{there}\n")
        script.chmod(0o755)
        where = ["--nodes", "n[1-2]", "--via", f"{script} {{host}}", "--remote", f"{sys.executable} -m torchctl"]
        command = torchctl(network, "ps", *where, "--timeout", "30", "--json")
        stack.callback(command.end)
        code, out, err = command.finish()
    assert (code, err) == (0, "")
    assert [(one["rank"], one["endpoint"].partition(":")[0]) for one in json.loads(out)["workers"]] == [
        (0, "n1"),
        (1, "n2"),
    ]


def test_the_relays_of_hosts_behind_a_real_sshd(network: Network, folder: Path) -> None:
    sshd = program()
    make_keys(folder)
    addresses = {"n1": "10.77.1.1", "n2": "10.77.2.1", "lost": SWALLOWED, "far": NO_ROUTE, "off": UNREACHABLE}
    environment = write_client_config(folder, {name: (address, 2222) for name, address in addresses.items()})
    with ExitStack() as stack:
        for rank, name in enumerate(("n1", "n2")):
            (folder / name).mkdir(mode=0o700)
            within = network.hosts[name]
            worker(stack, within, rank, [(str(folder / name / f"rank{rank}-1.sock"),)])
            write_server_config(folder, name, addresses[name], 2222)
            stack.enter_context(running_sshd(sshd, folder, name, addresses[name], 2222, within))
        outs = []
        for hosts, timeout in (("n[1-2],far,off", "60"), ("lost", "2")):
            where = ["--nodes", hosts, "--remote", f"{sys.executable} -m torchctl", "--timeout", timeout, "--json"]
            command = torchctl(network, "ps", *where, environment=environment)
            stack.callback(command.end)
            outs.append(command.finish())
    code, out, err = outs[0]
    found = {name.partition(":")[0]: kind for name, kind in kinds(json.loads(out)).items()}
    assert found == {"n1": "ok", "n2": "ok", "far": "unreachable", "off": "unreachable"}, err
    assert code == 3
    assert (kinds(json.loads(outs[1][1])), outs[1][0]) == ({"lost": "host_timeout"}, 5)
