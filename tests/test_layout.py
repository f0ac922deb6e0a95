"""The shape of the repository: links, import directions, what an import may load."""

import ast
import os
from pathlib import Path

import pytest

from tests.processes import python

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "torchctl"

# Package -> what it may import of torchctl; "" is any module right under torchctl.
ALLOWED = {
    "server": {"server", "protocol", "errors", "runtimedir", "launchers", "secretfile", "storeutil", "silence"},
    "silence": {"silence", "errors", "runtimedir"},
    "storeutil": {"storeutil", "errors", "endpoint", "ranks", "text"},
    "discovery": {"discovery", "protocol", "ranks", "errors", "endpoint", "runtimedir", "storeutil"},
    "flightrec": {"flightrec", "collected", "errors", "codepaths", "text", "ranks"},
    "stacks": {"stacks", "codepaths", "errors", "ranks"},
    "diagnosis": {"diagnosis", "flightrec", "stacks", "collected", "ranks", "errors", "codepaths"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "torchctl")
    return {name for name in found if name.startswith("torchctl.")}


def part_of(module: str) -> str:
    """Return the part of torchctl that a module belongs to: its package, or its own name right under torchctl."""
    return module.split(".")[1]


@pytest.mark.parametrize(("package", "allowed"), ALLOWED.items())
def test_imports_run_one_way(package: str, allowed: set[str]) -> None:
    for path in (PACKAGE / package).rglob("*.py"):
        bad = {name for name in imports(path) if part_of(name) not in allowed and name != "torchctl.__version__"}
        assert not bad, f"{path.relative_to(ROOT)} imports {sorted(bad)}"


def test_only_cli_loads_commands() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "commands" and path.name not in ("cli.py", "completing.py"):
            assert not any(name.startswith("torchctl.commands") for name in imports(path)), path


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
        ("torchctl.server", "click rich urllib3 torch numpy asyncio"),
        ("torchctl.storeutil", "click rich urllib3 torch"),
        ("torchctl.cli", "rich urllib3 torch asyncio"),
        ("torchctl.flightrec", "click rich urllib3 torch numpy"),
    ],
)
def test_a_fresh_import_loads_nothing_heavy(module: str, absent: str) -> None:
    code = f"import sys, {module}\nprint(sorted(set({absent.split()!r}) & set(sys.modules)))\n"
    with python(code) as process:
        assert process.finish() == (0, "[]\n", "")
