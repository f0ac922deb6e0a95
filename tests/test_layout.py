"""The shape of the repository: families, who may import whom, what an import may load."""

import ast
import functools
import os
import re
import sys
from pathlib import Path

import pytest

from tests.processes import python

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "torchctl"

# The modules right under torchctl that every family may use, each only those before it.
LEAVES = ("errors", "ranks", "text", "files", "manifest")
COMMAND = {"__init__", "__main__", "cli"}
# Family -> the families and leaves that it may import, beside itself.
FAMILIES = {
    "protocol": {"errors"},
    "process": {"protocol", "errors"},
    "stacks": {"protocol", "errors", "ranks", "text"},
    "flightrec": {"protocol", "stacks", "manifest", "errors", "ranks", "text"},
    "logs": {"stacks", "ranks", "text"},
    "diagnosis": {"logs", "protocol", "flightrec", "stacks", "manifest", "errors", "ranks", "text"},
    "storeutil": {"errors", "ranks", "text"},
    "workers": {"protocol", "process", "stacks", "storeutil", "manifest", "errors", "ranks", "text"},
    "reports": {"logs", "workers", "diagnosis", "flightrec", "stacks", "process", "protocol", *LEAVES},
    "render": {"reports", "workers", "diagnosis", "flightrec", "stacks", "storeutil", "errors", "ranks", "text"},
    "commands": {
        *("protocol", "process", "stacks", "flightrec", "diagnosis", "storeutil", "workers", "reports", "render"),
        *("cli", *LEAVES),
    },
    "server": {"protocol", "process", "errors", "storeutil"},
}
# Inside a family, or narrower than the family: module prefix -> what it may import of torchctl.
NARROW = {
    "torchctl.server.sentinel": {
        *("torchctl.server.sentinel", "torchctl.server.http.gate", "torchctl.server.http.head"),
        *("torchctl.server.http.verdict", "torchctl.process", "torchctl.protocol", "torchctl.errors"),
    },
    "torchctl.server.handlers": {
        *("torchctl.server.handlers", "torchctl.server.guest", "torchctl.server.registry", "torchctl.server.request"),
        *("torchctl.server.refusal", "torchctl.process", "torchctl.protocol", "torchctl.errors"),
    },
}
# What a module imports against the rules, until it is mended. Only ever shorter.
EXCEPTIONS: set[tuple[str, str]] = set()
CIRCLES: set[str] = set()
LONGEST_CHAIN = 10  # modules that import one another in a row; may only fall
# What a question may know of the asking side: no transport.
QUESTIONS_KNOW = {
    *("torchctl.workers.ask.question", "torchctl.workers.ask.request", "torchctl.workers.ask.reply"),
    *("torchctl.workers.endpoint", "torchctl.errors", "torchctl.protocol.identity"),
}
# Pure families, and what no module of them imports of the standard library.
PURE = ("torchctl.diagnosis", "torchctl.logs", "torchctl.render")
READS_FILES = {"io", "os", "pathlib", "shutil", "tempfile"}
NO_IO = {"socket", "asyncio", "subprocess", "select", "selectors", "multiprocessing", "http", "ssl", "signal"}


def modules() -> dict[str, Path]:
    """Return every module of the project by its name; the linked folders under their names in torchctl."""
    found = {}
    for top in ("torchctl", "server", "storeutil"):
        for path in (ROOT / top).rglob("*.py"):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[0] != "torchctl":
                parts.insert(0, "torchctl")
            elif parts[1] in ("server", "storeutil"):
                continue  # the link, where rglob follows it
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Return what a module imports, wherever it does: modules of ours by their whole name, others by the first word."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(one if one in MODULES else one.split(".")[0] for one in found) - {name}


def ours(name: str) -> set[str]:
    return {one for one in imports(name) if one in MODULES and one != "torchctl"}


def family(name: str) -> str:
    """Return the family of a module, or its own name when it stands at the root."""
    return name.split(".")[1] if "." in name else "__init__"


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def wrong() -> set[tuple[str, str]]:
    """Return every import against the rules: who, and what."""
    found = set()
    for name in MODULES:
        home = family(name)
        for other in ours(name):
            target = family(other)
            if home in FAMILIES:
                bad = target != home and target not in FAMILIES[home]
            elif home in LEAVES:
                bad = target not in LEAVES[: LEAVES.index(home)]
            else:
                bad = False  # the command itself
            if home == "server" and target == "storeutil":
                bad = other != "torchctl.storeutil.probe"
            if home == "workers" and target == "storeutil":
                bad = name != "torchctl.workers.find.store"
            if home == "flightrec" and target == "stacks":
                bad = other != "torchctl.stacks.codepaths"
            if home == "flightrec" and target == "protocol":
                bad = other != "torchctl.protocol.recorder"
            if home == "logs" and target == "stacks":
                bad = other != "torchctl.stacks.codepaths"
            if home == "diagnosis" and target == "protocol":
                bad = other != "torchctl.protocol.calls"
            if bad:
                found.add((name, other))
        for prefix, allowed in NARROW.items():
            if within(name, prefix):
                found.update((name, other) for other in ours(name) if not any(within(other, one) for one in allowed))
    return found


def circles() -> list[set[str]]:
    """Return the sets of modules that import one another in a circle."""

    @functools.cache
    def reach(start: str) -> frozenset[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for one in ours(ahead.pop()) - seen:
                seen.add(one)
                ahead.append(one)
        return frozenset(seen)

    found: list[set[str]] = []
    for name in MODULES:
        circle = {other for other in reach(name) if name in reach(other)}
        if circle and circle not in found:
            found.append(circle)
    return found


def longest_chain() -> list[str]:
    """Return the longest row of modules each of which imports the next; a circle counts as it is entered."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))
    best: dict[str, list[str]] = {}

    def chain(name: str, above: frozenset[str]) -> list[str]:
        if name not in best:
            below = [chain(other, above | {name}) for other in ours(name) - above]
            best[name] = [name, *max(below, key=len, default=[])]
        return best[name]

    return max((chain(name, frozenset()) for name in sorted(MODULES)), key=len)


def test_every_module_belongs_to_a_family() -> None:
    root = {path.stem for path in PACKAGE.glob("*.py")}
    assert root <= COMMAND | set(LEAVES)
    assert len(root) <= 8
    assert {family(name) for name in MODULES} <= root | set(FAMILIES)


def test_imports_follow_the_table() -> None:
    found = wrong()
    assert found - EXCEPTIONS == set()
    assert EXCEPTIONS - found == set(), "mended: take it off the list"


def test_nothing_is_imported_in_a_circle() -> None:
    found = circles()
    assert [circle for circle in found if not circle <= CIRCLES] == []
    assert {name for circle in found for name in circle} >= CIRCLES, "mended: take it off the list"


def test_no_chain_of_imports_is_longer_than_the_longest_was() -> None:
    chain = longest_chain()
    assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)
    assert len(chain) == LONGEST_CHAIN, f"it is {len(chain)} now: lower the number"


@pytest.mark.parametrize("prefix", PURE)
def test_pure_families_do_no_io(prefix: str) -> None:
    for name in MODULES:
        if within(name, prefix):
            assert not imports(name) & NO_IO, name


@pytest.mark.parametrize("prefix", ["torchctl.diagnosis", "torchctl.logs"])
def test_diagnosis_and_logs_open_no_file(prefix: str) -> None:
    """Files are read in reports: what is in diagnosis or logs can be tested without one."""
    readers = {f"torchctl.flightrec.table.{name}" for name in ("folder", "gather", "loading")}
    for name in MODULES:
        if within(name, prefix):
            assert not imports(name) & (READS_FILES | readers), name
            assert "open(" not in re.findall(r"\b\w+\(", MODULES[name].read_text()), name


def test_a_question_does_not_know_how_it_travels() -> None:
    for part in ("question", "request", "http", "outcome", "reply", "transport"):
        name = f"torchctl.workers.ask.{part}"
        assert not imports(name) & NO_IO, name
    assert ours("torchctl.workers.ask.question") <= QUESTIONS_KNOW | {"torchctl.protocol"}
    for name in MODULES:
        if within(name, "torchctl.workers.questions"):
            assert {one for one in ours(name) if within(one, "torchctl.workers")} <= QUESTIONS_KNOW | {
                one for one in MODULES if within(one, "torchctl.workers.questions")
            }


def test_one_place_picks_the_transport() -> None:
    transports = {f"torchctl.workers.ask.{part}" for part in ("one", "many", "threads")}
    for name in MODULES:
        if not within(name, "torchctl.workers.ask"):
            assert not ours(name) & transports, name
    assert not any("torchctl.workers.ask.fanout" in ours(name) for name in transports)


def test_only_the_root_command_loads_commands() -> None:
    for name in MODULES:
        if family(name) not in ("commands", "cli"):
            assert not any(family(other) == "commands" for other in ours(name)), name


def test_the_folders_at_the_top_are_reached_by_links() -> None:
    for name in ("server", "storeutil"):
        link = PACKAGE / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
        assert (link / "__init__.py").is_file()


def test_the_top_level_holds_nothing_else() -> None:
    allowed = {"torchctl", "server", "storeutil", "tests", "completions"}
    allowed |= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "build"}
    seen = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and path.suffix != ".egg-info"}
    assert seen <= allowed | {"SECURITY.md"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("torchctl", "click rich urllib3 torch"),
        ("torchctl.server", "click rich urllib3 torch numpy asyncio http email urllib.parse ipaddress ssl logging"),
        ("torchctl.server", "pathlib subprocess tempfile shutil pickle ctypes"),
        ("torchctl.storeutil", "click rich urllib3 torch"),
        ("torchctl.cli", "rich urllib3 torch asyncio"),
        ("torchctl.flightrec", "click rich urllib3 torch numpy"),
        ("torchctl.commands.store", "rich torch torchctl.workers torchctl.protocol torchctl.commands.options"),
        ("torchctl.commands.barrier", "rich torch torchctl.workers torchctl.protocol torchctl.commands.options"),
        ("torchctl.commands.synchronize", "rich torch torchctl.workers torchctl.protocol torchctl.commands.options"),
    ],
)
def test_a_fresh_import_loads_nothing_heavy(module: str, absent: str) -> None:
    code = "import sys\nbefore = set(sys.modules)\n"
    code += f"import {module}\nprint(sorted(set({absent.split()!r}) & (set(sys.modules) - before)))\n"
    with python(code) as process:
        assert process.finish() == (0, "[]\n", "")
