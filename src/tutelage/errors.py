"""The one error that users see, and how it names an option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TutelageError(ValueError):
    """Something in what the user gave is wrong.

    The message is one line: it names the thing, the value and the remedy. The command line prints it and exits
    with code 2; nothing is left half written.
    """


_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


def option(name: str) -> str:
    """An option as the user typed it: ``--max-train`` on the command line, ``max_train`` in Python."""
    return f"--{name.replace('_', '-')}" if _on_command_line.get() else name


@contextmanager
def command_line() -> Iterator[None]:
    """While this lasts the user types options on the command line."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)
