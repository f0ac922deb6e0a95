"""What the interpreter prints when it ends of an exception, Python's or C++'s."""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

TRACEBACK, WHAT = "traceback", "cpp_what"

PATTERNS = (
    Pattern(
        TRACEBACK,
        "context",
        ("Traceback (most recent call last)",),
        r"(?P<original>Original )?Traceback \(most recent call last\):\s*\Z",
        "an exception, with where it was raised; whether the process ended of it, other lines show",
        "Traceback (most recent call last):",
        "",
        "Python",
    ),
    Pattern(
        "chained",
        "context",
        ("above exception",),
        r"\A\s{0,8}(?:During handling of the above exception, another|The above exception was the direct cause of)",
        "the exception above led to the one below",
        "During handling of the above exception, another exception occurred:",
        "",
        "Python",
    ),
    Pattern(
        "cpp_terminate",
        "context",
        ("terminate called after throwing",),
        r"terminate called after throwing an instance of '(?P<type>[\w:]{1,200})'",
        "an exception of C++ ended it; the next line says which",
        "terminate called after throwing an instance of 'c10::Error'",
        "",
        "libstdc++",
    ),
    Pattern(
        WHAT,
        "failed",
        ("  what():  ",),
        r"\A {2}what\(\): {2}(?P<what>.{1,1000})",
        "an exception of C++ ended it",
        "  what():  basic_string::_M_construct null not valid",
        "",
        "libstdc++",
        fatal=True,
    ),
    Pattern(
        "interrupted",
        "killed",
        ("KeyboardInterrupt",),
        r"\AKeyboardInterrupt(?::|\Z)",
        "a person's Ctrl-C (SIGINT) ended it",
        "KeyboardInterrupt",
        "",
        "Python",
    ),
)
