"""What the worker and the command line agree on: routes, headers and limits. No I/O.

Source: torch/csrc/distributed/c10d/control_plane/WorkerServer.cpp (torch 2.13) for routes and texts.
"""

from __future__ import annotations

import json
from typing import Any

SOCKET_VARIABLE = "TORCH_WORKER_SERVER_SOCKET"
TOKEN_VARIABLE = "TORCHCTL_TOKEN"
TOKEN_FILE_VARIABLE = "TORCHCTL_TOKEN_FILE"
MIN_TOKEN_BYTES = 16
TOKEN_HINT = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
TLS_CERT_VARIABLE = "TORCHCTL_TLS_CERT"
TLS_KEY_VARIABLE = "TORCHCTL_TLS_KEY"
CA_VARIABLE = "TORCHCTL_CA"
READ_ONLY_VARIABLE = "TORCHCTL_READ_ONLY"
RECORD_P2P_VARIABLE = "TORCHCTL_RECORD_P2P"

HANDLER_PATH = "/handler/"
INDEX_PAGE = '<h1>torch.distributed.WorkerServer</h1>\n<a href="/handler/">Handler names</a>\n'
TLS_WANTED = "this port speaks TLS; give the CA of its certificate: torchctl ... --ca FILE"
ROUTES = "the routes are: GET /, GET /handler/, POST /handler/NAME"

SENTINEL_VARIABLE = "TORCHCTL_SENTINEL"
# Which of torch's two recorders a trace came from; absent until torch is loaded.
RECORDER_HEADER = "Torchctl-Recorder"
NCCL_RECORDER, GENERIC_RECORDER, NO_RECORDER = "nccl", "generic", "none"

# Keys in a job's TCPStore: torch's debug server sets PREFIX/rankN, we add PREFIX/torchctl_rankN (pid and start time).
STORE_PREFIX = "debug_server"
STORE_ABOUT = "torchctl_rank"
WORKER_HOST_VARIABLE = "TORCHCTL_WORKER_HOST"
WORKER_PORT_VARIABLE = "TORCHCTL_WORKER_PORT"

MAX_SOCKET_PATH_BYTES = 107  # Linux's sun_path holds 108, including the NUL
MAX_BODY_BYTES = 1 << 20
MAX_LINE_BYTES = 8192  # request line or one header; same as Apache and cpp-httplib
MAX_HEADERS = 64
MAX_PARAMS = 64
MAX_CONNECTIONS = 64
BACKLOG = 128  # with Python's default of 5, the 7th waiting client gets EAGAIN
REQUEST_TIMEOUT_S = 5.0  # to send one request
IDLE_TIMEOUT_S = 2.0  # between two requests on one connection
SEND_TIMEOUT_S = 30.0  # to receive one answer; traces are megabytes, links may be slow
DRAIN_TIMEOUT_S = 1.0  # to stop sending after a refusal
SHUTDOWN_TIMEOUT_S = 0.4
WRONG_TOKEN_DELAY_S = 1.0  # before the answer: a token has at least 16 bytes, so guessing is hopeless

DEFAULT_TIMEOUT_S = 5.0  # for a whole command
MAX_REPLY_BYTES = 256 << 20  # a full trace of 2000 entries as JSON is 1 MB


def token_problem(token: str) -> str:
    """Return why a token cannot be used, or "" if it can; the text never contains the token."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        return "has characters that cannot go in an HTTP header: use visible ASCII only"
    if len(token) < MIN_TOKEN_BYTES:
        return f"is shorter than {MIN_TOKEN_BYTES} bytes"
    return ""


def compact_json(value: Any) -> str:
    """Return JSON as the server sends it: no spaces, sorted keys."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
