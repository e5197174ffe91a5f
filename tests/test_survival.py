"""What a run does with damaged files, changed inputs, signals and failures of the machine."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tutelage import cli
from tutelage.artifacts import check_seal, read_signed, seal, signed
from tutelage.cli.shown import show
from tutelage.data.readers.files import read_table
from tutelage.errors import TutelageError
from tutelage.knowledge.store.reading import Store
from tutelage.methods.kd import kd
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.settings import run_config
from tutelage.run import origins, trials
from tutelage.run.run import run
from tutelage.run.workspace import locked, new_accelerator, run_folder
from tutelage.students.load import load_model
from tutelage.students.specs import Copied
from tutelage.training import checkpoint, loop


def flipped(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


DAMAGE: list[Callable[[Path], None]] = [flipped, truncated, Path.unlink]


# ----------------------------------------------------------------------------------------------------- checkpoints


def two_checkpoints(folder: Path) -> None:
    for number in (1, 2):
        checkpoint.save(folder, {"n": number, "a.safetensors": {"x": torch.full((64,), float(number))}})


@pytest.mark.parametrize("name", ["state.json", "a.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path, damage, name: str) -> None:
    folder, lines = tmp_path / "checkpoint", list[str]()
    two_checkpoints(folder)
    damage(folder / name)
    state = checkpoint.load(folder, lines.append)
    assert state is not None and state["n"] == 1 and set(state["a.safetensors"]["x"].tolist()) == {1.0}
    assert len(lines) == 1 and name in lines[0] and "the checkpoint before it" in lines[0]
    # What is damaged never takes the place of what is whole.
    checkpoint.save(folder, {"n": 3, "a.safetensors": {"x": torch.zeros(64)}})
    flipped(folder / name)
    state = checkpoint.load(folder)
    assert state is not None and state["n"] == 1


@pytest.mark.parametrize("name", ["state.json", "a.safetensors"])
def test_without_a_whole_checkpoint_the_run_ends_in_one_line(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoint"
    two_checkpoints(folder)
    for place in (folder, tmp_path / "checkpoint.old"):
        flipped(place / name)
    with pytest.raises(TutelageError, match=rf"is damaged: {name}.*remove '{tmp_path}' and repeat"):
        checkpoint.load(folder)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, '{"n": 1, "sha256": "0"}'])
def test_a_signed_file_is_as_it_was_written_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(signed({"a": {1: [0.1, None]}}))
    assert read_signed(path) == {"a": {"1": [0.1, None]}}
    path.write_text(text)
    with pytest.raises(TutelageError, match=r"x.json' is damaged .*; remove the folder"):
        read_signed(path)


class Killed(Exception):
    pass


def config_of(scene: Path, out: Path, *more: str) -> RunConfig:
    """Six steps of a student of one layer, and of its twin."""
    return run_config(
        kd().model_copy(update={"student": Copied(layers=1)}),
        {"train": str(scene / "train.csv"), "dev": str(scene / "dev.csv")},
        ["stages.*.max_steps=6", "stages.*.batch_size=16", *more],
        teacher=str(scene / "teacher"),
        out=str(out),
    )


def killed(config: RunConfig, patch: pytest.MonkeyPatch, at: int) -> None:
    """Carry out a run with a checkpoint at each step until the checkpoint of this number is written."""
    save, count = checkpoint.save, 0

    def save_and_die(folder: Path, state: checkpoint.State) -> None:
        nonlocal count
        save(folder, state)
        count += 1
        if count == at:
            raise Killed

    with patch.context() as patched:
        patched.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        patched.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(Killed):
            run(config, quiet=True)


def refuses_other_origins(config: RunConfig, patch: pytest.MonkeyPatch, *, finished: bool = False) -> None:
    """Data, teacher and program that are not those of the run's begin are named in one line; of a finished run the program may
    be another."""
    assert config.data.dev is not None and config.teacher is not None
    for path, name in [(config.data.dev, "the data"), (f"{config.teacher}/config.json", "the teacher '.*'")]:
        before = Path(path).read_text()
        Path(path).write_text(before.replace("good", "bad").replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
        try:
            assert Path(path).read_text() != before
            with pytest.raises(TutelageError, match=rf"^{name} changed since the run in .* began; restore"):
                run(config, resume=True, quiet=True)
        finally:
            Path(path).write_text(before)
    with patch.context() as patched:
        patched.setattr(origins, "__version__", "0.0")
        if finished:
            folder = Path(config.teacher)
            elsewhere = config.model_copy(update={"teacher": f"{folder.parent}/./{folder.name}/"})  # spelt otherwise
            run(elsewhere, resume=True, quiet=True)
            return
        with pytest.raises(TutelageError, match=r"^the version of tutelage changed"):
            run(config, resume=True, quiet=True)


def test_a_stopped_run_refuses_damaged_files_and_continues_from_an_earlier_checkpoint_to_the_same_bits(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (config_of(teacher_folder, tmp_path / name) for name in ("whole", "cut"))
    run(whole, quiet=True)
    folder = tmp_path / "cut"
    killed(
        cut, monkeypatch, at=8
    )  # in the twin's stage, where the student is read again; the one before is a stage's end
    for name in ("student/model.safetensors", "student/config.json", "twin.json"):
        path = folder / name
        before = path.read_bytes()
        flipped(path)
        with pytest.raises(TutelageError, match=rf"{path.name}.*damaged|damaged.*{path.name}"):
            run(cut, resume=True, quiet=True)
        path.write_bytes(before)
    refuses_other_origins(cut, monkeypatch)
    flipped(folder / "checkpoint" / "student.safetensors")
    run(cut, resume=True, quiet=True)
    for name in ("student/model.safetensors", "predictions/evaluation.safetensors"):  # the twin's predictions too
        ours, theirs = (load_file(tmp_path / one / name) for one in ("cut", "whole"))
        assert [n for n in theirs if not torch.equal(ours[n], theirs[n])] == []
    assert not list(folder.glob("checkpoint*"))
    # Killed just before its end a run leaves its checkpoint.
    (folder / "checkpoint").mkdir()
    run(cut, resume=True, quiet=True)
    assert not (folder / "checkpoint").exists()
    refuses_other_origins(cut, monkeypatch, finished=True)


# --------------------------------------------------------------------------------------------------------- signals


def test_ctrl_c_outside_of_runs_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tutelage.cli.shown.show", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(["methods"])
    assert end.value.code == 130
    assert "stopped outside of training; repeat the command to go on from there" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(
    number: int, code: int, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    kept = {one: signal.signal(one, handler) for one, handler in before.items()}  # jobs in the background ignore SIGINT
    config = config_of(teacher_folder, tmp_path / "run")
    clip, steps = loop.optimizers.clip, 0

    def clip_and_stop(*given: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 3 and (tmp_path / "run" / "origins.json").exists():
            os.kill(os.getpid(), number)
        clip(*given)

    (tmp_path / "run.yaml").write_text(to_yaml(config.model_copy(update={"baseline": False})))
    monkeypatch.setattr(loop.optimizers, "clip", clip_and_stop)
    monkeypatch.setattr(trials, "choose", lambda *given: trials.Tried())
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written), pytest.raises(SystemExit) as end:
            cli.main(["run", str(tmp_path / "run.yaml")])
        assert {one: signal.getsignal(one) for one in before} == before
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    assert end.value.code == code, written.getvalue()
    assert "stopped at step 3 of stage" in written.getvalue() and "with --resume" in written.getvalue()
    state = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert state is not None and state["log"]["steps"] == 3


def test_a_signal_outside_of_training_ends_at_once(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's pass over many texts takes hours, and there is no step to finish."""
    kept = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (tmp_path / "run.yaml").write_text(to_yaml(config_of(teacher_folder, tmp_path / "run")))
    monkeypatch.setattr(trials, "choose", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written), pytest.raises(SystemExit) as end:
            cli.main(["run", str(tmp_path / "run.yaml")])
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert end.value.code == 143 and "stopped outside of training; repeat the command" in written.getvalue()


# ------------------------------------------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b"), "the disk is full .*free space"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full .*free space"),
        (SafetensorError("Error while deserializing header"), r"\.safetensors file is damaged"),
        (PermissionError(13, "Permission denied", "a/b"), "'a/b': Permission denied; see"),
        (MemoryError(), r"out of memory .*free memory and repeat"),
        (torch.OutOfMemoryError("CUDA out of memory."), r"out of memory .*free memory and repeat"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            r"out of memory .*free memory and repeat",
        ),
    ],
)
def test_a_failure_of_the_machine_is_one_line(error: Exception, line: str, monkeypatch, capsys) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(cli.app, "main", fail)
    with pytest.raises(SystemExit) as end:
        cli.main(["methods"])
    assert end.value.code == 2
    written = capsys.readouterr().err
    assert re.search(line, written) and written.count("\n") == 1


def test_settings_that_divide_a_model_among_processes_are_refused(monkeypatch) -> None:
    """On CPUs accelerate would train as if they were not there; on GPUs the student would be saved in parts."""
    remedy = "use `torchrun --nproc_per_node N -m tutelage"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(TutelageError, match=rf"use DeepSpeed \(ACCELERATE_USE_DEEPSPEED\).* {remedy}"):
        new_accelerator()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(TutelageError, match=rf"use FSDP 1 \(.* without FSDP_VERSION=2\).* {remedy}"):
        new_accelerator()
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(TutelageError, match="mixed_precision fp16 does not work with FSDP; use no or bf16"):
        new_accelerator("fp16")
    assert new_accelerator().num_processes == 1


def test_of_several_processes_the_first_shows_the_result(monkeypatch, capsys) -> None:
    """Two documents of JSON are none."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    show("evaluate", {"model": "m", "scores": {}}, as_json=True)
    assert capsys.readouterr().out == ""


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(cli.app, "main", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["methods"])


def test_a_folder_whose_first_file_was_not_finished_counts_as_empty(tmp_path: Path) -> None:
    config = RunConfig(recipe=kd(), out=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.tmp").touch()
    assert run_folder(config, resume=True) == tmp_path / "run"
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(TutelageError, match="is not empty and holds no run"):
        run_folder(config, resume=True)


# ------------------------------------------------------------------------------------------- what others wrote


def resigned(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a store's manifest and sign it anew: its checksum is no secret."""
    tree = read_signed(store / "manifest.json")
    edit(tree)
    (store / "manifest.json").write_text(signed(tree))


def refused(line: str, call: Callable[[], object]) -> None:
    with pytest.raises(TutelageError, match=line):
        call()


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "shards.0.name": lambda tree: tree["shards"][0].update(name="../../../etc/hostname"),
    "scheme.hidden": lambda tree: tree["scheme"].update(hidden=10**9),
    "scheme.classes": lambda tree: tree["scheme"].update(classes=-1),
    "the size of its records": lambda tree: tree["scheme"].update(classes=3),
}


def test_a_damaged_or_hostile_store_is_refused_by_name_also_where_a_run_finds_it(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    config = config_of(teacher_folder, tmp_path / "run").model_copy(update={"baseline": False, "teacher_store": "auto"})
    run(config, quiet=True)
    (home,) = (path for path in (tmp_path / "stores").iterdir() if path.is_dir())
    for name in ("shard-00000.bin", "index.bin", "manifest.json", "evaluation.safetensors"):
        for damage in DAMAGE:
            before = (home / name).read_bytes()
            damage(home / name)
            refused(rf"is damaged: {name}|is not a teacher store", lambda: Store(home).verify())
            (home / name).write_bytes(before)
    before = (home / "manifest.json").read_bytes()
    for named, edit in HOSTILE.items():
        resigned(home, edit)
        refused(rf"is damaged: .*{named}", lambda: Store(home))
        (home / "manifest.json").write_bytes(before)
    truncated(home / "shard-00000.bin")
    again = config.model_copy(update={"out": str(tmp_path / "again")})
    refused(r"the teacher store .* is damaged: shard-00000\.bin has .*; remove it", lambda: run(again, quiet=True))


def test_a_teacher_that_answers_nan_teaches_nobody_and_is_stored_nowhere(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    broken = Path(shutil.copytree(teacher_folder / "teacher", tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    config = config_of(teacher_folder, tmp_path / "run").model_copy(
        update={"teacher": str(broken), "allow_weak_teacher": True, "teacher_store": "auto"}
    )
    refused(r"^the teacher '.*broken' answers with NaN or infinity", lambda: run(config, quiet=True))
    assert not any((tmp_path / "stores").iterdir()) and not (tmp_path / "run").exists()


def test_a_sealed_file_is_as_it_was_written_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.arange(64.0), "y": torch.ones(3, dtype=torch.bfloat16)}, path, {"part": "dev"})
    check_seal(path)  # one that was never sealed passes
    seal(path)
    check_seal(path)
    assert load_file(path)["x"].tolist() == list(range(64))
    content = path.read_bytes()
    passed = []
    for place in range(8, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            check_seal(path)
            passed.append(content[max(place - 12, 0) : place + 12])
    # Without its key a file was never sealed. Its tensors are whole.
    assert len(passed) < 8 and all(b"metadata" in there or b"sha256" in there for there in passed)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udcff", "dangling"])
def test_a_name_that_no_folder_can_have_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with (
        pytest.raises(TutelageError, match=r"^out .* cannot be written \(.*\); name another folder"),
        locked(str(tmp_path / "new" / name if name != "dangling" else tmp_path / name)),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_yaml_and_rates_that_blow_up_are_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n  k{i}: 1\n" for i in range(1, 10)
    )
    for text in (bomb, "seed: !!bool x"):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(TutelageError, match="is not a YAML file"):
            from_yaml(tmp_path / "run.yaml")
    for setting in ("lr=.inf", "lr=200", "weight_decay=.inf", "weight_decay=1e9"):
        with pytest.raises(TutelageError, match=r"finite number|less than or equal to|a step would take away"):
            run_config(kd(), {}, [f"stages.*.{setting}"])
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TutelageError, match="is a pipe or a device"):
        read_table(tmp_path / "pipe.csv")


def test_a_damaged_student_is_never_used(teacher_folder: Path, tmp_path: Path) -> None:
    """Its weights carry a checksum, and stay a file that others read."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder / "teacher", folder)
    load_model(str(folder))
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_file(path)
    with pytest.raises(TutelageError, match="is not as it was written; copy or fetch it again"):
        load_model(str(folder))
