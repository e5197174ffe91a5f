"""Processes of tests: killed in the middle of a run, or several that train one student.

They are forked from a server that has imported the program once and run nothing, so each costs a tenth of a second. A new
interpreter would spend ten seconds of CPU time on imports.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["pytest", "sklearn.metrics", "tutelage.run.run", "transformers.models.bert.modeling_bert", "torch._dynamo"]
)


def _call(sender: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple) -> None:
    from tutelage.run import served, trials

    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    trials.FEWEST = 2  # as in conftest
    served.missing = lambda: ["onnx, for tests"]
    try:
        sender.send((function(*arguments), None))
    except BaseException:
        sender.send((None, traceback.format_exc()))
        raise


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function``, of a test module's top level, returns in each of ``count`` processes that ``torch.distributed`` knows.

    With one process there is no group. ``KILLED`` is the result of a process that was killed; an exception in a process is an
    assertion that fails here, with its traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1"}
    started = []
    for rank in range(count):
        environment = {**os.environ, **({**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {})}
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_call, args=(sender, environment, function, arguments))
        process.start()
        sender.close()
        started.append((process, receiver))
    ends = [_end(process, receiver) for process, receiver in started]
    assert not any(error for _, error in ends), "\n".join(error for _, error in ends if error)
    return [value for value, _ in ends]


KILLED = "killed"


def _end(process: Any, receiver: Connection) -> tuple[Any, str | None]:
    """The value of a process, or its traceback."""
    try:
        value, error = receiver.recv()
    except EOFError:
        process.join()
        return KILLED, None if process.exitcode == -signal.SIGKILL else f"a process ended with {process.exitcode}"
    process.join()
    return value, error


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """As :func:`in_processes`, one process."""
    return in_processes(1, function, *arguments)[0]


def kill_after(checkpoints: int) -> None:
    """End this process by SIGKILL when it has written that many checkpoints, one at each point."""
    from tutelage.training import checkpoint, loop

    loop.CHECKPOINT_SECONDS = 0.0
    save, calls = checkpoint.save, 0

    def counting(folder: Path, state: checkpoint.State) -> None:
        nonlocal calls
        save(folder, state)
        calls += 1
        if calls == checkpoints:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = counting


def run_of(path: Path, resume: bool = False, kill_at: int | None = None) -> None:
    """Carry out a run's YAML file, with a checkpoint at each point; with ``kill_at`` until SIGKILL after that many."""
    from tutelage.recipes.config import from_yaml
    from tutelage.run.run import run
    from tutelage.training import loop

    loop.CHECKPOINT_SECONDS = 0.0
    # The first process would log each step and the second almost none: the first decides for both.
    loop.LOG_SECONDS = 1e9 * int(os.environ.get("RANK", "0"))
    if kill_at is not None:
        kill_after(kill_at)
    run(from_yaml(path), resume=resume, quiet=True)


def command(words: list[str], kill_at: int | None = None) -> tuple[int, str]:
    """Carry out a command line: its exit code and what it wrote to stderr; with ``kill_at`` until that many checkpoints."""
    from tutelage import cli

    written = io.StringIO()
    if kill_at is not None:
        kill_after(kill_at)
    with contextlib.redirect_stderr(written):
        try:
            cli.main(words)
        except SystemExit as stop:
            return int(stop.code or 0), written.getvalue()
    return 0, written.getvalue()
