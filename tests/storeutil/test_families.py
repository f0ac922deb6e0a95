"""Keys are put together by what torch means by them, and never named after the wrong barrier."""

import pytest

from torchctl.storeutil.operator.families import describe, family_of, sort_keys, wanted_values


def lines(values: dict[str, bytes]) -> list[tuple[str, int, str]]:
    """Return name, number of keys and meaning of each group of a whole store."""
    found = sort_keys(sorted(values))
    known = {key: values[key] for key in wanted_values(found)}
    return [(group.name, len(group.keys), group.meaning) for group in describe(found, known)]


def test_a_barrier_is_told_in_words() -> None:
    store = {
        "x/num_members": b"3",
        "x/TORCHCTL_WORLD_SIZE": b"4",
        "x0/TRACE": b"",
        "x2/TRACE": b"",
        "x3/TRACE": b"",
    }
    assert lines(store) == [("x", 5, "barrier `x`: 3 of 4 arrived: 0,2-3")]
    assert lines({**store, "x/last_member": b""})[0][2] == "barrier `x`: 3 of 4 arrived, released"
    full = {
        **store,
        "x/num_members": b"4",
        "x/last_member": b"",
        "x/TORCHCTL_REPORT/3": b"",
        "x/TRACING_GATE": b"",
    }
    assert lines(full) == [("x", 8, "barrier `x`: 4 of 4 arrived, complete")]


def test_without_a_world_size_only_what_is_known_is_told() -> None:
    assert lines({"x/num_members": b"3"}) == [("x", 1, "barrier `x`: 3 arrived")]
    assert lines({"x/num_members": b"3", "x/last_member": b""})[0][2] == "barrier `x`: 3 arrived, complete"
    assert lines({"x/last_member": b""}) == [("x", 1, "barrier `x`: ? arrived, complete")]


def test_a_trace_goes_to_the_barrier_that_has_a_counter() -> None:
    store = {"epoch-4/num_members": b"2", "epoch-40/TRACE": b"", "epoch-412/TRACE": b""}
    assert lines(store) == [("epoch-4", 3, "barrier `epoch-4`: 2 arrived: 0,12")]


def test_between_two_barriers_a_rank_is_not_named() -> None:
    store = {"b1/num_members": b"1", "b12/num_members": b"1", "b123/TRACE": b""}
    assert [meaning for _, _, meaning in lines(store)] == [
        "barrier `b1`: 1 arrived",
        "barrier `b12`: 1 arrived",
    ]


def test_an_exchange_is_told_in_words() -> None:
    store = {"s/0": b"", "s/1": b"", "s/2": b"", "s//finished/num_members": b"1"}
    assert lines(store) == [("s/", 4, "exchange `s/`: 3 published, read by 1")]


def test_the_creation_of_a_group_is_told_in_words() -> None:
    key = "default_pg/store_based_barrier_key:0"
    assert lines({key: b"3"}) == [(key, 1, "creation of group `0`: 3 joined")]
    assert lines({key: b"4", f"{key}:last_worker": b"1"}) == [(key, 2, "creation of group `0`: 4 joined, complete")]


@pytest.mark.parametrize(
    ("keys", "name", "words"),
    [
        (
            ["none/torchelastic/role_info/0", "none/torchelastic/role_info/1"],
            "none/torchelastic/role_info/0-1",
            "role",
        ),
        (["none/torchelastic/assigned_ranks/0"], "none/torchelastic/assigned_ranks/0", "ranks given"),
        (["debug_server/rank0", "debug_server/rank1"], "debug_server/rank0-1", "debug server"),
        (["default_pg/0//cpu//0/0", "default_pg/0//cpu//0/1"], "default_pg/0//cpu//0/0-1", "gloo"),
        (["default_pg/0//cuda//0"], "default_pg/0//cuda//0", "NCCL unique ids"),
        (["default_pg/0//cuda//0:1"], "default_pg/0//cuda//0:1", "NCCL unique ids"),
        (["torch.rendezvous.42"], "torch.rendezvous.42", "elastic rendezvous"),
        (["MASTER_ADDR"], "MASTER_ADDR", "where the job's own store is"),
        (["init/"], "init/", "workers that joined"),
    ],
)
def test_torchs_families_are_known(keys: list[str], name: str, words: str) -> None:
    [(shown, count, meaning)] = lines(dict.fromkeys(keys, b"x"))
    assert (shown, count) == (name, len(keys))
    assert words in meaning
    assert all(family_of(key) for key in keys)


def test_a_signal_of_nccl_names_its_rank() -> None:
    assert lines({"exception_dump": b"\x03\0\0\0"})[0][2] == "NCCL: rank 3 timed out and asked every rank for a dump"
    assert lines({"remote_error:0": b"?"})[0][2] == "NCCL: a rank has reported an error to its group"
    assert family_of("exception_dump") == "NCCL: a rank timed out and asked every rank for a dump"


def test_keys_of_ones_own_are_folded_by_their_number() -> None:
    assert lines({"k0": b"", "k1": b"", "k7": b"", "lr": b""}) == [("k0-1,7", 3, ""), ("lr", 1, "")]
    assert lines({"k1": b"", "k99999999999999": b""}) == [("k* (2 keys)", 2, "")]
    assert family_of("lr") is None and family_of("k1") is None
