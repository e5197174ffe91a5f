"""Progress of long commands: a live line in a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Event:
    """One line of the training log: position, losses and speed of a stage. The start of a stage, where it is scored, has one of
    epoch and step 0, without losses."""

    stage: str
    epoch: int
    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    seconds: float
    tokens_per_second: float
    score: float | None = None
    hooks: dict[str, float] = field(default_factory=dict)
    """Values that the training hooks report."""
    memory_mb: int | None = None
    """Memory that the main process holds, where the system tells."""


PLAIN_SECONDS = 10.0


class Display:
    """Shows progress and messages on stderr; stdout is for results. ``quiet`` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed = 0.0
        self._counted = 0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def advance(self, name: str, total: int, count: int) -> None:
        """Count ``count`` more of ``total`` items as done."""
        task = self._task(name, total)
        self._progress.advance(task, count)
        if next(t for t in self._progress.tasks if t.id == task).finished:
            self._forget(name)

    def count(self, more: int) -> None:
        """Count ``more`` tokens as done, for work of unknown size."""
        self._counted += more
        now = time.monotonic()
        if now - self._printed > PLAIN_SECONDS:
            self.say(f"{self._counted:,} tokens")
            self._printed = now

    def event(self, who: str, event: Event) -> None:
        """Show a line of the training log."""
        name = f"{who} / {event.stage}" if who else event.stage
        if not event.step and event.score is not None:
            self.say(f"{name} before training: validation {event.score:.4f}")
            return
        losses = " ".join(f"{term} {value:.4g}" for term, value in event.losses.items())
        score = "" if event.score is None else f" validation {event.score:.4f}"
        beside = "".join(f" {name} {value:.3f}" for name, value in event.hooks.items())
        note = f"epoch {event.epoch} {losses}{beside} lr {event.lr:.2g}{score} {event.tokens_per_second:,.0f} tokens/s"
        note += "" if event.memory_mb is None else f" {event.memory_mb:,} MB"
        self._progress.update(self._task(name, event.steps), completed=event.step, note=note)
        now = time.monotonic()
        done = event.step >= event.steps
        if self._progress.disable and (event.score is not None or done or now - self._printed > PLAIN_SECONDS):
            left = event.seconds / max(event.step, 1) * (event.steps - event.step)
            self.say(f"{name} step {event.step}/{event.steps} {note} left {left:.0f}s")
            self._printed = now
        elif done:
            self.say(f"{name} step {event.step}/{event.steps} {note}")
        if done:
            self._forget(name)

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        return self._tasks[name]

    def _forget(self, name: str) -> None:
        self._progress.remove_task(self._tasks.pop(name))


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
