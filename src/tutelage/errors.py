"""The one error that users see, and what they typed."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TutelageError(ValueError):
    """Something in what the user gave is wrong.

    The message is one line: it names the thing, the value and the remedy. The command line prints it and exits
    with code 2; nothing is left half written. Line breaks and control characters in a value are shown escaped.
    """

    def __init__(self, line: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))


class Stopped(BaseException):
    """The user (Ctrl-C) or the system (SIGTERM) asked the program to end. The message says how to go on."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.code = 128 + number
        """The exit code: 130 or 143."""


_words: ContextVar[tuple[str, ...] | None] = ContextVar("words", default=None)


TYPED = {"settings": "set", "members": "member", "plugins": "plugin"}
"""Options whose name on the command line is not that of their parameter."""


def option(name: str, value: bool | None = None) -> str:
    """An option as the user typed it: ``--max-train`` on the command line, ``max_train`` in Python; with its ``value`` a switch:
    ``--no-header`` or ``header=False``."""
    if _words.get() is None:
        return name if value is None else f"{name}={value}"
    return f"--{'no-' if value is False else ''}{TYPED.get(name, name.replace('_', '-'))}"


def command() -> str | None:
    """The command that the user typed; None in Python."""
    words = _words.get()
    return None if words is None else shlex.join(["tutelage", *words])


@contextmanager
def command_line(words: Iterable[str]) -> Iterator[None]:
    """While this lasts the program does what the user typed: ``words`` without the program's name."""
    token = _words.set(tuple(words))
    try:
        yield
    finally:
        _words.reset(token)


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of its GPU did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    text = str(error).lower()
    # oneDNN's words where memory ends; those about a descriptor are about a type or a shape.
    primitive = "could not create a primitive" in text and "descriptor" not in text
    return isinstance(error, RuntimeError) and (primitive or any(words in text for words in said))


def of_the_machine(error: BaseException) -> str | None:
    """One line about a disk that refuses a file or a memory that is exhausted, with a remedy; None for other errors."""
    text, name = str(error), type(error).__name__
    if out_of_memory(error):
        return (
            f"out of memory ({last_reason(error)}); free memory and repeat the command, a run with {option('resume', True)}; "
            f"or start anew with a smaller model, or shorter texts ({option('max_length')})"
        )
    if "No space left on device" in text:
        return (
            f"the disk is full ({last_reason(error)}); free space and repeat the command; a run goes on with "
            f"{option('resume', True)}"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror or text}; see that it exists and may be read and written"
    if name == "SafetensorError":
        return (
            f"a .safetensors file is damaged or cannot be written ({last_reason(error)}); copy or train the model again"
        )
    return None


UNSAFE = ("weights_only", "trust_remote_code", "allow_pickle", "Unpickl")


def last_reason(error: BaseException) -> str:
    """Why a library refused a file, in one short line; never its advice to load the file unsafely."""
    text = str(error)
    if any(word in text or word in type(error).__name__ for word in UNSAFE):
        return "it holds Python objects or needs code of its own, which is not loaded"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if not text.strip() or isinstance(error, KeyError | IndexError):
        return f"{type(error).__name__} {lines[0]}" if text.strip() else type(error).__name__
    # An introduction ends in a colon and the reason follows.
    chosen = next((line for line in lines if not line.endswith(":")), lines[-1])
    return chosen if len(chosen) <= 300 else f"{chosen[:297]}..."
