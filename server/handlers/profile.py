"""`torch_profile`: torch's profiler over all threads for a few seconds, as a Chrome trace."""

from __future__ import annotations

import atexit
import importlib
import threading

from torchctl.server.guest.loaded import loaded
from torchctl.server.handlers.parameters import check_names, seconds
from torchctl.server.refusal import Refusal
from torchctl.server.request import Request, Response

MAX_DURATION_S = 60.0
_END_TIMEOUT_S = 5.0
_one_at_a_time = threading.Lock()
_ending = threading.Event()


def torch_profile(request: Request, response: Response) -> None:
    """Answer with a Chrome trace of `duration` seconds (at most 60); 409 if another profile is running.

    Source: torch/distributed/debug/_handlers.py (torch 2.13) for the parameter and format.
    """
    check_names(request, "duration")
    duration_s = seconds(request.get_param("duration") or "missing", "duration", most=MAX_DURATION_S)
    if loaded("torch") is None:
        raise Refusal(501, "torch is not loaded in this process, so there is nothing to profile")
    if getattr(loaded("torch.autograd.profiler"), "_is_profiler_enabled", False):
        raise Refusal(409, "the training script is running its own profiler, and torch crashes with two at once")
    if not _one_at_a_time.acquire(blocking=False):
        raise Refusal(409, "another profile is running; try again when it is done")
    atexit.register(_end_early)
    try:
        profiler = importlib.import_module("torch.profiler")
        try:
            config = profiler._ExperimentalConfig(profile_all_threads=True)
        except TypeError:  # an older torch, which profiles only the threads that it started itself
            config = profiler._ExperimentalConfig()
        with profiler.profile(record_shapes=True, experimental_config=config) as profile:
            _ending.wait(duration_s)
        import tempfile  # late: once torch is loaded, so is this

        with tempfile.NamedTemporaryFile(prefix="torchctl-profile-", suffix=".json") as file:
            profile.export_chrome_trace(file.name)
            with open(file.name, "rb") as written:  # reopened: the profiler may have replaced the file
                response.set_content(written.read(), "application/json")
    finally:
        atexit.unregister(_end_early)
        _one_at_a_time.release()
    response.set_status(200)


def _end_early() -> None:
    """Stop a running profile when the process exits, since torch crashes if it is torn down while profiling."""
    _ending.set()
    if _one_at_a_time.acquire(timeout=_END_TIMEOUT_S):
        _one_at_a_time.release()
