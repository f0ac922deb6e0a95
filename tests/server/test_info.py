"""`info`: who the worker is, without its secrets."""

import json
import os
import subprocess
import sys
import time

import pytest

from torchctl.protocol.masking import masked_arguments
from torchctl.server import Request, Response, get_handler, report_step


def ask() -> dict[str, object]:
    response = Response()
    get_handler("info")(Request(), response)
    assert response.status == 200
    document = json.loads(response.content)
    assert isinstance(document, dict)
    return document


def test_what_is_unknown_stays_unknown() -> None:
    document = ask()
    assert document["schema"] == "torchctl.info/1"
    for name in ("rank", "local_rank", "world_size", "job_id", "device"):
        assert document[name] is None
    assert document["pid"] == os.getpid()
    assert document["backends"] == []


@pytest.mark.parametrize(
    ("environment", "rank", "local_rank", "world_size"),
    [
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "SLURM_PROCID": "2"}, 5, 1, 8),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}, 2, 0, 4),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "6"},
            3,
            1,
            6,
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1, None, 2),
        ({"RANK": "x", "WORLD_SIZE": "8"}, None, None, None),
        ({"RANK": "-1"}, None, None, None),
    ],
)
def test_the_launcher_tells_the_rank(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    rank: int | None,
    local_rank: int | None,
    world_size: int | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    document = ask()
    assert (document["rank"], document["local_rank"], document["world_size"]) == (
        rank,
        local_rank,
        world_size,
    )


def test_the_job_is_the_launchers_id_else_the_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert ask()["job_id"] == "node1:29500"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run-7")
    assert ask()["job_id"] == "run-7"


def test_the_last_step_and_its_time() -> None:
    before = time.time()
    report_step(1203)
    document = ask()
    assert document["step"] == 1203
    assert isinstance(document["step_time"], float)
    assert before <= document["step_time"] <= time.time()


def test_start_time_and_uptime_are_the_processs() -> None:
    code = (
        "import time; t = time.time(); import torchctl.server as s, json\n"
        "r = s.Response(); s.get_handler('info')(s.Request(), r); d = json.loads(r.content)\n"
        "print(abs(d['start_time'] - t) < 2, 0 <= d['uptime_s'] < 20)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout == "True True\n"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["t.py", "--api-key", "abc", "--lr", "0.1"], ["t.py", "--api-key", "***", "--lr", "0.1"]),
        (["t.py", "--hf_TOKEN=abc", "db.password=x=y"], ["t.py", "--hf_TOKEN=***", "db.password=***"]),
        (["t.py", "--secret", "--dash", "next"], ["t.py", "--secret", "***", "next"]),
        (["t.py", "s3://user:pw@host/x", "donkey.txt"], ["t.py", "s3://user:***@host/x", "donkey.txt"]),
        (["t.py", "--passwd"], ["t.py", "--passwd"]),
        (["train_tokenizer.py", "data"], ["train_tokenizer.py", "data"]),
        (["t.py", "--cfg=api_key=S", "--env=HF_TOKEN=S"], ["t.py", "--cfg=api_key=***", "--env=HF_TOKEN=***"]),
        (["t.py", "--opts", "api_key", "S"], ["t.py", "--opts", "api_key", "***"]),
        (["t.py", '{"api_key": "S", "lr": 1}'], ["t.py", '{"api_key": "***", "lr": 1}']),
        (["t.py", "a=1,api_key=S,b=2", "api_key:S"], ["t.py", "a=1,api_key=***,b=2", "api_key:***"]),
        (["t.py", "https://h/?a=1&token=S&b=2"], ["t.py", "https://h/?a=1&token=***&b=2"]),
        (["t.py", "x=1 token=S"], ["t.py", "x=1 token=***"]),
    ],
)
def test_secrets_on_the_command_line_are_masked(arguments: list[str], shown: list[str]) -> None:
    assert masked_arguments(arguments) == shown
