"""A run's device, display and output folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import memory
from tutelage.anatomy import Head
from tutelage.artifacts import held, read_signed, seal, sha256_of, signed, sync, write_json, write_text
from tutelage.data.examples import Encoded
from tutelage.data.given import FOLDER
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError, command, last_reason, option
from tutelage.evaluation.speed import cpu_name, fast_precision
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig, to_yaml, with_absolute_paths
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import changes
from tutelage.report.model import REPORT, Report, load_report
from tutelage.run import assistants
from tutelage.run.origins import VERSION
from tutelage.students.final import final_network
from tutelage.students.load import load_model
from tutelage.teachers.teacher import predicted
from tutelage.training import checkpoint, sharding

LOCK = ".lock"
"""In a folder that a process writes to."""

READING = 600.0
"""Seconds that a process waits for the folder of a finished run. Who holds it does not train: it compares the data with those that
the run has learnt from, and reads the report, or is about to end."""

PROJECTIONS = "projections.safetensors"
"""In the folder of a finished run: the linear maps between its student and its teacher."""

ORIGINS = "origins.json"
"""In the folder of an unfinished run: the fingerprints of what it learns from."""


SHARDING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What ``accelerate launch`` sets for ways to divide a model among processes that are not supported."""


def new_accelerator(precision: str = "no", tracker: str | None = None, folder: str | None = None) -> Accelerator:
    """An Accelerator of this precision, whatever an earlier run of this process used.

    Raises:
        TutelageError: when the device cannot compute in that precision, or accelerate is told to divide models in a way that
            is not supported.
    """
    _check_sharding(precision)
    AcceleratorState._reset_state()
    # The loop divides the student: accelerate would do it on GPUs alone, for a model and an optimizer that it gets at once.
    fsdp = os.environ.pop(sharding.FSDP, None)
    try:
        accelerator = Accelerator(
            mixed_precision=fast_precision() if precision == "auto" else precision,
            log_with=tracker,
            project_dir=folder,
            # The processes wait for the slowest, and for the first while it finishes a store.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=24))],
        )
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise TutelageError(
            f"{option('mixed_precision')} {precision} does not work here ({reason}); use no or bf16"
        ) from None
    finally:
        if fsdp is not None:
            os.environ[sharding.FSDP] = fsdp
    if accelerator.device.type == "cpu":
        memory.keep()
    return accelerator


def _check_sharding(precision: str) -> None:
    """Check how accelerate is told to divide models among processes.

    Raises:
        TutelageError: when that is not supported.
    """
    found = next((f"{words} ({name})" for name, words in SHARDING.items() if sharding.switched_on(name)), None)
    if sharding.switched_on(sharding.FSDP):
        # Else transformers would read a model's weights in the first process alone.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        if os.environ.get("FSDP_VERSION", "1") != "2":
            found = f"FSDP 1 ({sharding.FSDP} without FSDP_VERSION=2)"
        elif precision == "fp16":
            raise TutelageError(f"{option('mixed_precision')} fp16 does not work with FSDP; use no or bf16")
    if found is not None:
        # On CPUs accelerate would leave it out without a word.
        raise TutelageError(
            f"accelerate is set to use {found}, which divides a model among processes in a way that is not supported; use "
            "`torchrun --nproc_per_node N -m tutelage ...`, or accelerate launch with `--multi_gpu` or `--use_fsdp "
            "--fsdp_version 2`"
        )


def check_divided(recipe: Recipe) -> None:
    """Check that FSDP, if accelerate is told to use it, can divide what the stages train.

    Raises:
        TutelageError: when a mechanism reads or changes weights while they are trained.
    """
    assistants = [stage for assistant in recipe.assistants for stage in assistant.stages or ()]
    for mechanism in [mechanism for stage in [*assistants, *recipe.stages] for mechanism in stage.mechanisms]:
        if sharding.switched_on(sharding.FSDP) and type(mechanism).hook is not Mechanism.hook:
            raise TutelageError(
                f"the mechanism {mechanism.kind} works on whole weights, which FSDP divides among processes; use "
                "`torchrun --nproc_per_node N -m tutelage ...`, or `accelerate launch --multi_gpu` without `--use_fsdp`"
            )


@dataclass
class Bench:
    """A device and a display: what every command that runs a model needs."""

    accelerator: Accelerator
    display: Display
    anyway: str | None = field(default_factory=lambda: option("allow_weak_teacher", True), kw_only=True)
    """The option of the command that goes on with a teacher that is no better than a constant answer, if it has one."""

    def predict(self, model: PreTrainedModel, encoded: Encoded, name: str, *, divided: bool = False) -> Tensor:
        """Logits of all examples, ``(answers, classes)``, with the progress shown under ``name``.

        With ``divided`` every process must call this; see :func:`~tutelage.teachers.teacher.predict`.
        """
        model = model.to(self.accelerator.device)
        return predicted(model, encoded, self.accelerator, self.display, name, divided=divided)

    def rehearse(self, student: PreTrainedModel, tokenizer: Any, head: Head) -> None:
        """Save the student as it will be into a scratch folder and load it again, so that training does not end in a failure.

        Raises:
            TutelageError: when it cannot be saved or loaded.
        """
        if not self.main:  # the process that writes
            return
        with tempfile.TemporaryDirectory(prefix="tutelage-") as scratch:
            try:
                final_network(student).save_pretrained(scratch)
                tokenizer.save_pretrained(scratch)
            except Exception as error:  # each configuration and tokenizer checks in its own way
                raise TutelageError(
                    f"the student could not be saved after training: {last_reason(error)}; correct config.json of the model "
                    "that it starts from, or free space"
                ) from None
            load_tokenizer(scratch)
            _, lacking = load_model(scratch, head)
        if lacking:
            raise TutelageError(f"the student would lose {lacking[0]} when it is saved; start from another model")

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)


@contextmanager
def bench(quiet: bool = False, precision: str = "no") -> Iterator[Bench]:
    """A bench for a command that writes no run.

    Raises:
        TutelageError: as :func:`new_accelerator`.
    """
    _quieten()
    accelerator = new_accelerator(precision)
    with Display(quiet or not accelerator.is_main_process) as display:
        yield Bench(accelerator, display)


def _quieten() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@dataclass
class Workspace(Bench):
    """A run's device, display and folder."""

    config: RunConfig
    folder: Path
    resume: bool
    resumed: checkpoint.State | None = None
    """Where the run was interrupted, once it has begun."""
    began: float = field(default_factory=time.perf_counter)
    origins: dict[str, str] = field(default_factory=dict)
    """The fingerprint of each thing that the run learns from, once it has begun."""

    @property
    def model_folder(self) -> Path:
        """Where the student lies: in ``student/``, or, for a run without a teacher on a task, in the folder itself."""
        alone = not self.config.taught and not self.config.recipe.on_corpus
        return self.folder if alone else self.folder / "student"

    def finished(self, origins: Callable[[], dict[str, str]], leftovers: tuple[str, ...]) -> dict[str, Any] | None:
        """The report, if the resumed run is already finished.

        Args:
            origins: Reads the fingerprint of each thing that the run would learn from now.
            leftovers: As :meth:`end` takes them.

        Raises:
            TutelageError: when it has learnt from others.
        """
        path, place = self.folder / REPORT, self.folder / ORIGINS
        if not self.resume or not path.exists():
            return None
        if place.exists():
            before = read_signed(place)
            # Another version reports what this one did; it need not train alike.
            self._compare(origins() | {VERSION: before.get(VERSION, "")}, before)
        report = load_report(self.folder).model_dump(mode="json")
        self.display.say(f"the run in {self.folder} is already finished")
        self._clear(leftovers)  # killed just before its end, it left them
        return report

    def _clear(self, leftovers: tuple[str, ...]) -> None:
        """Remove what only an unfinished run needs."""
        if self.main:
            for name in leftovers:
                (self.folder / name).unlink(missing_ok=True)
            checkpoint.remove(self.folder / "checkpoint")

    def begin(self, origins: dict[str, str]) -> None:
        """Write the run's settings to its folder and its trackers. From here on the folder belongs to this run.

        Args:
            origins: The fingerprint of each thing that the run learns from.

        Raises:
            TutelageError: when a resumed run began with others, or its checkpoint is damaged.
        """
        place = self.folder / ORIGINS
        if self.resume:
            self.resumed = checkpoint.load(self.folder / "checkpoint", self.display.say)
            if self.resumed is not None or place.exists():
                self._compare(origins, read_signed(place))
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "config.yaml", to_yaml(with_absolute_paths(self.config)))
            write_text(place, signed(origins))
        self.origins = {name: found for name, found in origins.items() if name != VERSION}
        if self.config.tracker:
            self.accelerator.init_trackers("tutelage", config={"config": to_yaml(with_absolute_paths(self.config))})

    def _compare(self, ours: dict[str, str], theirs: dict[str, str]) -> None:
        """By contents: what lies elsewhere now, or is spelt otherwise, is the same."""
        for here, there in ((theirs, ours), (ours, theirs)):
            for name in (name for name, found in here.items() if found not in there.values()):
                raise TutelageError(
                    f"{name} changed since the run in {str(self.folder)!r} began; restore what it began with, or give another "
                    f"{option('out')}"
                )

    def save_student(self, student: PreTrainedModel, tokenizer: Any, projections: dict[str, Tensor]) -> dict[str, str]:
        """Write the student with its tokenizer, and the projections. Each file is written completely or not at all.

        Returns the SHA-256 of each file of the student by its path in :attr:`model_folder`.
        """
        fresh = self.folder / "student.new"
        shutil.rmtree(fresh, ignore_errors=True)
        student.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        for path in fresh.rglob("*.safetensors"):
            seal(path)
        self.model_folder.mkdir(exist_ok=True)
        written = {path.relative_to(fresh).as_posix(): path for path in fresh.rglob("*") if path.is_file()}
        kept = {name: sha256_of(path) for name, path in written.items()}
        for name, path in written.items():
            sync(path)
            place = self.model_folder / name
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
        shutil.rmtree(fresh)
        if projections:
            new = self.folder / "projections.tmp"
            save_file({name: value.cpu().clone() for name, value in projections.items()}, new, {"format": "pt"})
            seal(new)
            os.replace(new, self.folder / PROJECTIONS)
        return kept

    def check_student(self) -> None:
        """Compare the saved student of a resumed run with its checksums.

        Raises:
            TutelageError: if a file is not as it was written.
        """
        assert self.resumed is not None
        for name, checksum in self.resumed["kept"].items():
            path = self.model_folder / name
            if not path.is_file() or sha256_of(path) != checksum:
                raise TutelageError(
                    f"the student {str(self.model_folder)!r} is damaged: {name} is not as it was written; remove "
                    f"{str(self.folder)!r} and repeat the command, which starts the run anew"
                )

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run until now, resumed parts included."""
        before: float = 0.0 if self.resumed is None else self.resumed["seconds_before"]
        return before + time.perf_counter() - self.began

    def end(self, report: Report, card: str, page: str, leftovers: tuple[str, ...]) -> None:
        """Write the report, the model card and the page, and remove the checkpoint and the ``leftovers``."""
        if self.main:
            write_text(self.model_folder / "README.md", card)
            write_text(self.folder / "report.html", page)
            write_json(self.folder / REPORT, report)
        self._clear(leftovers)
        # Not end_training, which ends the process group too: another run may follow.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()

    def environment(self) -> dict[str, Any]:
        """The hardware and library versions, for the report."""
        device, precision = self.accelerator.device, self.config.mixed_precision
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(device.type),
            "cpu": cpu_name(),
            **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
            "threads": torch.get_num_threads(),
            "precision": "fp32" if precision == "no" else precision,
            "command": command(),
        }


@contextmanager
def workspace(config: RunConfig, *, resume: bool, quiet: bool) -> Iterator[Workspace]:
    """The workspace of a run. While it is open, no other run can use the same folder.

    Raises:
        TutelageError: when another run uses it, the folder does not fit, or the device cannot compute in this precision.
    """
    if config.tracker is not None and importlib.util.find_spec(config.tracker) is None:
        raise TutelageError(
            f'the tracker {config.tracker!r} is not installed; pip install "tutelage[{config.tracker}]"'
        )
    with locked(config.out, Display(quiet).say):
        _quieten()
        accelerator = new_accelerator(config.mixed_precision, config.tracker, config.out)
        folder = run_folder(config, resume)
        with Display(quiet or not accelerator.is_main_process) as display:
            yield Workspace(accelerator, display, config, folder, resume)


def _rank() -> int:
    """This process's number among those that train together."""
    given = os.environ.get("RANK", "0")
    if not given.isdecimal():
        raise TutelageError(
            f"the environment variable RANK={given!r} is not a number; unset it, or start with torchrun"
        )
    return int(given)


@contextmanager
def locked(out: str | None, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """While this lasts, no other process can lock the same folder, on this machine or another that shares it. The lock is a file in
    the folder, which is made for it, and removed again if nothing was written. The folder of a finished run is waited for, which
    ``say`` is told.

    Raises:
        TutelageError: when another does, or the folder cannot be made.
    """
    if out is None or _rank() > 0:
        yield  # of processes that train together the first holds the folder for all
        return
    folder, made, taken = Path(out), list[Path](), ExitStack()
    try:
        out.encode()  # a name that is no text cannot be written down
        if folder.is_file():
            raise TutelageError(f"{option('out')} {out!r} is a file; name a folder")
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        another = f"another process writes to {out!r}; wait until it ends, or give another {option('out')}"
        patience = READING if (folder / REPORT).exists() else 0.0
        taken.enter_context(
            held(folder / LOCK, another, patience, lambda: say(f"waiting for another process that reads {out} ..."))
        )
    except TutelageError:
        raise
    except (OSError, ValueError) as error:
        _remove_empty(made)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TutelageError(f"{option('out')} {out!r:.200} cannot be written ({reason}); name another folder") from None
    try:
        with taken:
            yield
    finally:
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, from the innermost, as far as they hold nothing."""
    for folder in folders:
        with suppress(OSError, ValueError):  # a name that no folder can have
            folder.rmdir()


def run_folder(config: RunConfig, resume: bool) -> Path:
    """The folder of a run: new, empty, or (to ``resume``) with the same run in it.

    Raises:
        TutelageError: when it is none of these, or cannot be written.
    """
    if config.out is None:
        raise TutelageError(f"there is no output folder; give {option('out')} FOLDER")
    folder = Path(config.out)
    before = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise TutelageError(f"{option('out')} {config.out!r} is a file; name a folder")
    if before.exists():
        if not resume:
            raise TutelageError(
                f"{config.out!r} holds a run; continue it with {option('resume', True)}, or give another {option('out')}"
            )
        theirs, ours = before.read_text(encoding="utf-8"), to_yaml(with_absolute_paths(config))
        if theirs != ours:
            raise TutelageError(
                f"{config.out!r} holds a run with other settings ({changes(theirs, ours)}); repeat the "
                f"command with its settings, or give another {option('out')}"
            )
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise TutelageError(
            f"{option('out')} {config.out!r} cannot be written ({str(parent)!r} is not a writable folder); name another folder"
        )
    # A run that was killed while it wrote its first file leaves config.yaml.tmp alone.
    if (
        not before.exists()
        and folder.exists()
        and {path.name for path in folder.iterdir()} - {FOLDER, assistants.FOLDER, LOCK, "config.yaml.tmp"}
    ):
        raise TutelageError(
            f"{config.out!r} is not empty and holds no run; give an empty or new folder to {option('out')}"
        )
    return folder
