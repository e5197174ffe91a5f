"""Where a run computes and where it writes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage.artifacts import write_text
from tutelage.errors import TutelageError
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.training.checkpoint import State


def new_accelerator(precision: str = "no", tracker: str | None = None, folder: str | None = None) -> Accelerator:
    """An Accelerator of this precision, whatever one an earlier run of this process had.

    Raises:
        TutelageError: when the device cannot compute in that precision.
    """
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=precision,
            log_with=tracker,
            project_dir=folder,
            # Heads and poolers take no part in some stages.
            # While one process writes a teacher store the others wait.
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=timedelta(hours=24)),
            ],
        )
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise TutelageError(f"mixed_precision={precision!r} does not work here ({reason}); use no or bf16") from None


@contextmanager
def alone(config: RunConfig) -> Iterator[None]:
    """While it lasts no other run of this user on this machine works in the same folder.

    Raises:
        TutelageError: when one does.
    """
    if config.out is None or int(os.environ.get("RANK", "0")) > 0:
        yield  # of processes that train together the first holds the folder for all
        return
    user = os.getuid() if hasattr(os, "getuid") else 0  # elsewhere the folder of temporary files is a user's own
    name = f"{user} {Path(config.out).resolve()}"
    lock = FileLock(Path(tempfile.gettempdir()) / f"tutelage-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TutelageError(
            f"another process is at work in {config.out!r}; wait until it is done, or give another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def opened(config: RunConfig, resume: bool, quiet: bool) -> tuple[Accelerator, Display, Path, dict[str, Any] | None]:
    """What a run computes on, shows itself on and writes into; and its report, if it was finished before.

    Raises:
        TutelageError: as :func:`new_accelerator` and :func:`run_folder`.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    accelerator = new_accelerator(config.mixed_precision, config.tracker, config.out)
    display = Display(quiet or not accelerator.is_main_process)
    folder = run_folder(config, resume)
    finished = folder / "report.json"
    report = None
    if resume and finished.exists():
        display.say(f"{folder} is finished already")
        report = json.loads(finished.read_text(encoding="utf-8"))
    return accelerator, display, folder, report


def write_down(config: RunConfig, accelerator: Accelerator, folder: Path) -> None:
    """The run's settings, into its folder and to its trackers: from here on the run has begun."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", to_yaml(config))
    if config.tracker:
        accelerator.init_trackers("tutelage", config={"config": to_yaml(config)})


def spent(began: float, resumed: State | None) -> float:
    """Seconds of the whole run: since ``began``, on this process's clock, and before it was interrupted."""
    before: float = 0.0 if resumed is None else resumed["seconds_before"]
    return before + time.perf_counter() - began


def environment(accelerator: Accelerator, precision: str) -> dict[str, Any]:
    """For the report: what a run was computed with."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(accelerator.device.type),
        **({"gpu": torch.cuda.get_device_name(accelerator.device)} if accelerator.device.type == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "precision": {"no": "fp32"}.get(precision, precision),
    }


def finish(accelerator: Accelerator) -> None:
    """The end of a run: trackers write what they have, and no process goes on before the report is written.

    Not ``end_training``, which ends the process group too: another run may follow.
    """
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.wait_for_everyone()


def run_folder(config: RunConfig, resume: bool) -> Path:
    """The folder of a run: new, empty, or (to ``resume``) with the same run in it.

    Raises:
        TutelageError: when it is none of these, or cannot be written.
    """
    if config.out is None:
        raise TutelageError("there is no place for the result; give --out FOLDER")
    folder = Path(config.out)
    before = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise TutelageError(f"--out {config.out!r} is a file; name a folder")
    if before.exists():
        if not resume:
            raise TutelageError(f"{config.out!r} holds another run; continue it with --resume, or give another --out")
        if before.read_text(encoding="utf-8") != to_yaml(config):
            raise TutelageError(
                f"{config.out!r} holds a run with other settings; see its config.yaml, or give another --out"
            )
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise TutelageError(
            f"--out {config.out!r} cannot be written ({str(parent)!r} is in the way); name another folder"
        )
    if not before.exists() and folder.exists() and any(folder.iterdir()):
        raise TutelageError(f"{config.out!r} is not empty and holds no run; give an empty or new folder to --out")
    return folder


def save_student(
    student: PreTrainedModel, tokenizer: Any, folder: Path, target: Path, projections: dict[str, Tensor]
) -> None:
    """Write the student with its tokenizer into ``target``, and the projections into ``folder``; each file whole."""
    fresh = folder / "student.new"
    shutil.rmtree(fresh, ignore_errors=True)
    student.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    target.mkdir(exist_ok=True)
    for path in fresh.iterdir():
        os.replace(path, target / path.name)
    fresh.rmdir()
    if projections:
        save_file({name: value.cpu().clone() for name, value in projections.items()}, folder / "projections.tmp")
        os.replace(folder / "projections.tmp", folder / "projections.safetensors")


def model_folder(config: RunConfig, folder: Path) -> Path:
    """Where a run's model lies: in ``student/``, or without a teacher in the folder itself."""
    return folder if config.teacher is None else folder / "student"
