"""Real sshds on loopback, one per made-up host, and the `ssh` that reaches them by name."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.processes import DEADLINE_S, Process, running

Run = Callable[[str], Sequence[str]]  # a host's name -> the words that stand before a command that is to run there

# Each call of the stand-in notes who calls whom, then is the real ssh; the host's name is the last word but one.
_SSH = """#!/bin/sh
for word in "$@"; do before=$last; last=$word; done
echo "${{CALLED_FROM:-here}} $before" >> {folder}/calls
exec {ssh} -F {folder}/ssh_config "$@"
"""


def program() -> str:
    """Return the path of sshd; skips the test where there is none, or no ssh."""
    found = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if found is None or shutil.which("ssh") is None:
        pytest.skip("sshd is not installed")
    return found


@contextlib.contextmanager
def ssh_hosts(
    folder: Path, names: Sequence[str], *, locked: Sequence[str] = (), silent: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Run an sshd per name; yield the environment in which `ssh NAME` reaches it.

    Each host has the runtime folder ``FOLDER/NAME``. At `locked` hosts our key is not known; `silent` ones accept the
    connection and say nothing. ``FOLDER/calls`` gets a line for each ssh: from which host, to which.
    """
    sshd = program()
    make_keys(folder)
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in [*names, *locked]:
            (folder / name).mkdir(mode=0o700)
            ports[name] = free_port()
            write_server_config(folder, name, "127.0.0.1", ports[name], locked=name in locked)
            stack.enter_context(running_sshd(sshd, folder, name, "127.0.0.1", ports[name]))
        for name in silent:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            ports[name] = listener.getsockname()[1]
        yield write_client_config(folder, {name: ("127.0.0.1", port) for name, port in ports.items()})


def make_keys(folder: Path) -> None:
    """Make the key of all hosts, and the user's, which all hosts know."""
    for name in ("host_key", "user_key"):
        arguments = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(arguments, check=True, timeout=DEADLINE_S)
    (folder / "known_users").write_text((folder / "user_key.pub").read_text())


def write_server_config(folder: Path, name: str, address: str, port: int, *, locked: bool = False) -> None:
    """Write ``FOLDER/NAME.sshd``; whoever logs in there has torchctl, python and the stand-in for ssh."""
    path = f"{folder}/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    (folder / f"{name}.sshd").write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {'none' if locked else folder / 'known_users'}\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nMaxStartups 200\n"
        f"SetEnv TORCHCTL_RUNTIME_DIR={folder}/{name} PYTHONPATH={os.getcwd()} PATH={path} CALLED_FROM={name}"
        f" CLUSTERSHELL_GW_LOG_DIR={folder}\n"
    )


@contextlib.contextmanager
def running_sshd(
    sshd: str, folder: Path, name: str, address: str, port: int, within: Sequence[str] = ()
) -> Iterator[Process]:
    """Run one sshd, in the network namespace that the words `within` lead to; it listens when the block begins."""
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    with running([*within, sshd, "-D", "-e", "-f", str(folder / f"{name}.sshd")]) as process:
        probe = f"import socket; socket.create_connection(({address!r}, {port}), timeout=5)"
        deadline = time.monotonic() + DEADLINE_S
        while process.popen.poll() is None:
            if within:
                if subprocess.run([*within, sys.executable, "-c", probe], capture_output=True).returncode == 0:
                    break
            else:
                with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5):
                    break
            assert time.monotonic() < deadline
        if process.popen.poll() is not None:
            pytest.skip("sshd does not start here")
        yield process


def write_client_config(folder: Path, hosts: dict[str, tuple[str, int]]) -> dict[str, str]:
    """Make `ssh NAME` lead to address and port, and return the environment in which it does."""
    lines = [f"Host {name}\n  HostName {address}\n  Port {port}" for name, (address, port) in hosts.items()]
    lines.append(
        f"Host *\n  User {getpass.getuser()}\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
        f"  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    (folder / "ssh_config").write_text("\n".join(lines))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(_SSH.format(folder=folder, ssh=shutil.which("ssh")))
    (folder / "bin" / "ssh").chmod(0o755)
    return {"PATH": f"{folder}/bin:{os.environ['PATH']}"}


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
