"""Carry out the runs of a comparison: one after another in this process, or side by side on a Ray cluster."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.artifacts import write_text
from tutelage.errors import TutelageError, last_reason, option
from tutelage.recipes import plugins
from tutelage.recipes.choices import Launcher
from tutelage.recipes.config import RunConfig, to_yaml, validated, with_absolute_paths
from tutelage.run.run import run

CONFIG = "config.yaml"
"""The settings of a run, in its folder."""


class Failure(NamedTuple):
    """Why a run failed: in one line, and its traceback."""

    reason: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        reason = str(error) if isinstance(error, TutelageError) else f"{type(error).__name__}: {last_reason(error)}"
        return cls(reason, "".join(traceback.format_exception(error)))


def check(launcher: Launcher) -> None:
    """Check that what a launcher needs is installed.

    Raises:
        TutelageError: if not.
    """
    if launcher == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise TutelageError(
                f'{option("launcher")} ray needs Ray, which is not installed; pip install "tutelage[ray]"'
            ) from None


def carry_out(config: RunConfig) -> Failure | None:
    """Begin or continue a run. A mistake in one is no reason to stop the others: it is returned."""
    folder = Path(str(config.out))
    try:
        # A stopped run with this folder is the same run; its files may lie elsewhere now.
        if (folder / CONFIG).exists():
            write_text(folder / CONFIG, to_yaml(with_absolute_paths(config)))
        run(config, resume=True, quiet=True)
    except Exception as error:  # out of memory, a damaged file, a bug: the queue goes on, and the exit code says so
        return Failure.of(error)
    return None


def in_turn(configs: Sequence[RunConfig], begin: Callable[[int], None]) -> Iterator[tuple[int, Failure | None]]:
    """Carry out each run; yields its place and its failure, if any. ``begin`` gets the place of each before it begins."""
    for place, config in enumerate(configs):
        begin(place)
        yield place, carry_out(config)


def on_ray(configs: Sequence[RunConfig], files: Sequence[str]) -> Iterator[tuple[int, Failure | None]]:
    """Carry out the runs on the Ray cluster at ``RAY_ADDRESS``, or on one that Ray starts on this machine; yields the place of
    each as it ends, and its failure, if any.

    A run takes one CPU, and one GPU where the cluster has any. All machines have to share the disk of the runs and their inputs,
    and to have this package.

    Args:
        configs: The runs.
        files: The plug-ins that they need.

    Raises:
        TutelageError: Ray cannot be started.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        try:
            ray.init(log_to_driver=False, include_dashboard=None, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TutelageError(
                f"Ray cannot be started ({last_reason(error)}); correct RAY_ADDRESS, or leave out {option('launcher')}"
            ) from None
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # A process of its own for each run: what one leaves in memory is not the next one's.
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=0)(_on_worker)
        read = [os.path.abspath(file) for file in files]
        waiting = {remote.remote(_plain(config), read): place for place, config in enumerate(configs)}
        while waiting:
            (ended, *_), _ = ray.wait(list(waiting), num_returns=1)
            place = waiting.pop(ended)
            try:
                failure = ray.get(ended)
            except ray.exceptions.RayError as error:  # the worker died: out of memory, or its machine is gone
                failure = Failure.of(error)
            yield place, failure
    finally:
        if started:
            ray.shutdown()


def _plain(config: RunConfig) -> dict[str, Any]:
    tree = with_absolute_paths(config).model_dump(mode="json")
    return {**tree, "out": os.path.abspath(str(config.out))}


def _on_worker(tree: dict[str, Any], files: list[str]) -> Failure | None:
    for file in files:
        plugins.load(file)
    return carry_out(validated(tree))
