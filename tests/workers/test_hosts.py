"""Host lists and host files: what is unfolded, and what never gets through."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from torchctl.cli import cli
from torchctl.errors import TorchctlError
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.find.hostfile import hostfile_text, read_hostfile
from torchctl.workers.find.hostlist import fold_hosts, parse_endpoints, parse_hosts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node1:25000", ["node1:25000"]),
        ("[::1]:25000", ["[::1]:25000"]),
        ("[fe80::1%eth0]:25000", ["[fe80::1%eth0]:25000"]),
        ("10.0.0.1:1", ["10.0.0.1:1"]),
        ("node[01-02]:25[000-001]", ["node01:25000", "node01:25001", "node02:25000", "node02:25001"]),
        ("a:1,b:2", ["a:1", "b:2"]),
        ("[::1]:1,n[1,3]:7,[fe80::2]:3", ["[::1]:1", "[fe80::2]:3", "n1:7", "n3:7"]),
        ("[::1]:1,[::1]:2", ["[::1]:1", "[::1]:2"]),
        ("n[1-3]-ib:7", ["n1-ib:7", "n2-ib:7", "n3-ib:7"]),
    ],
)
def test_lists_are_unfolded(text: str, expected: list[str]) -> None:
    assert sorted(map(str, parse_endpoints(text))) == expected


HOSTILE = [
    "-oProxyCommand=touch F:1",
    "-oProxyCommand=touch,b:1",
    "a\nx;touch F:1",
    "a;touch F,b:1",
    "$(touch F):1",
    "a`touch F`:1",
    "@group:1",
    "@group,b:1",
    "a b:1",
    "node[1-]:1",
    "n[1-99999999]:1",
    "n[1-99999]x[1-99999]:1",
    "a:1,-b:2",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_no_host_is_called_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoints(text)
    result = CliRunner().invoke(cli, ["ping", "--host", text], prog_name="torchctl")
    assert result.exit_code == 2


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1-_.:%[]@,;$`|&<> \n'\"\\é*?!(){}~^/", max_size=20))
def test_no_unfolded_name_can_be_an_option_or_a_word_of_a_shell(text: str) -> None:
    try:
        names = parse_hosts(text)
    except ValueError:
        return
    for name in names:
        assert not name.startswith("-")
        assert all(char.isascii() and (char.isalnum() or char in "._:%-") for char in name)


def test_folding_is_the_way_back() -> None:
    assert fold_hosts(["node1", "node2", "node3", "x"]) in ("node[1-3],x", "x,node[1-3]")
    assert fold_hosts(["only"]) == "only"


def test_a_host_file_with_ranks_comments_lists_and_paths(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# all\nnode1:25000 rank=3\nnode2:25000 4 # four\n\n/run/x.sock rank=5\nn[1-2]:7\n")
    found = read_hostfile(str(file))
    assert [(str(one), one.rank) for one in found] == [
        ("node1:25000", 3),
        ("node2:25000", 4),
        ("/run/x.sock", 5),
        ("n1:7", None),
        ("n2:7", None),
    ]
    again = tmp_path / "again"
    text, left_out = hostfile_text((one, one.rank) for one in found)
    again.write_text(text)
    assert (read_hostfile(str(again)), left_out) == (found, [])


def test_a_host_file_holds_any_path_that_a_line_can_name(tmp_path: Path) -> None:
    paths = ["/a b/s", "/a b/s 7", "/a#b", "/a b#c d", "/rank=3", "/x 3", "/a\tb"]
    named = [Endpoint(path=path, rank=5) for path in paths]
    odd = [Endpoint(path=path, rank=rank) for path, rank in (("/a\nb", 5), ("/a #b", 5), ("/x 3", None), ("rel", 1))]
    odd += [Endpoint(path="/s", node="n1", rank=3), Endpoint(pid=7, rank=1)]
    text, left_out = hostfile_text((one, one.rank) for one in named + odd)
    (file := tmp_path / "hosts").write_text(text)
    assert left_out == odd
    assert read_hostfile(str(file)) == named


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no addresses"),
        ("node1", "line 1: 'node1' is not HOST:PORT"),
        ("a:1\nb:1 rank=x", "line 2: 'rank=x' is not a rank"),
        ("n[1-2]:1 3", "line 1: one rank is given for several hosts"),
        ("-oProxyCommand=x:1", "line 1: '-oProxyCommand=x' is not a host name"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(TorchctlError, match=words.replace("[", r"\[")):
        read_hostfile(str(file))


def test_a_missing_host_file_is_an_error() -> None:
    with pytest.raises(TorchctlError, match="cannot be read"):
        read_hostfile("/does/not/exist")


def test_an_endpoint_says_what_it_is() -> None:
    assert str(Endpoint(pid=12)) == "pid 12"
