"""Exit codes and signals, as launchers, shells and schedulers write them."""

from __future__ import annotations

# Linux, on x86 and ARM. This room does no I/O, so it does not ask `signal`.
_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    10: "SIGUSR1",
    11: "SIGSEGV",
    12: "SIGUSR2",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}
_NAMES = {
    "killed": 9,
    "terminated": 15,
    "segmentation fault": 11,
    "segfault": 11,
    "aborted": 6,
    "bus error": 7,
    "illegal instruction": 4,
    "floating point exception": 8,
}
_NUMBERS = {name: number for number, name in _SIGNALS.items()}
_SHELLS_OFFSET = 128


def code_of(code: str, name: str) -> int | None:
    """Return an exit code, negative for a signal, from a number or a shell's words; None for neither."""
    if name:
        name = name.strip()
        found = _NAMES.get(name.lower(), _NUMBERS.get(name))
        return None if found is None else -found
    if not code:
        return None
    number = int(code)
    return _SHELLS_OFFSET - number if _SHELLS_OFFSET < number <= _SHELLS_OFFSET + 64 else number


def code_words(code: int | None) -> str:
    """Return "exit code 1" or "SIGKILL"."""
    if code is None:
        return "unknown exit code"
    if code >= 0:
        return f"exit code {code}"
    return _SIGNALS.get(-code, f"signal {-code}")
