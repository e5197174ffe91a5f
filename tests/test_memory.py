"""Memory that does not suffice: pieces are halved, and the result is that of smaller pieces from the start. Memory that is kept."""

from __future__ import annotations

import copy
import gc
import os
import re
import resource
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import assert_alike, examples, tiny_model
from processes import in_process, in_processes
from safetensors.torch import load_file
from test_training import learn, same_weights, tiny_stage

import tutelage
from tutelage import memory
from tutelage.data import examples as data_examples
from tutelage.data.batches import in_pieces
from tutelage.data.examples import encode
from tutelage.errors import TutelageError, of_the_machine
from tutelage.methods.kd import kd
from tutelage.objectives.predictions import SimilarityMatrix
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.settings import run_config
from tutelage.run.run import run
from tutelage.students.specs import Copied
from tutelage.teachers import teacher
from tutelage.teachers.teacher import LiveTeacher, predict
from tutelage.training import loop

CPU = "[enforce fail at alloc_cpu.cpp:123] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


def of_memory(said: list[str]) -> list[str]:
    """Without what a stage says of its first step."""
    return [line for line in said if not line.startswith(("first step", "warning"))]


def fails_once(accelerator: Accelerator, at: int) -> None:
    """The backward pass of this number runs out of memory when it is done."""
    backward, calls = accelerator.backward, 0

    def short(loss: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        backward(loss)
        if calls == at:
            raise RuntimeError(CPU)

    accelerator.backward = short


def test_a_step_that_does_not_fit_is_repeated_in_halves_to_the_bits_of_smaller_pieces(tokenizer) -> None:
    """With dropout: gradients of the failed pieces are cleared, and the random numbers begin where they began."""
    accelerator, said = Accelerator(cpu=True), list[str]()
    fails_once(accelerator, at=2)
    stage = tiny_stage(max_tokens=120, max_steps=5)
    halved, log, _ = learn(tokenizer, stage, wider=True, accelerator=accelerator, say=said.append)
    (found,) = (re.search(r"halved, to at most (\d+) padded tokens", line) for line in of_memory(said))
    assert found is not None
    smaller = stage.model_copy(update={"max_tokens": int(found[1])})
    assert 40 < smaller.max_tokens <= 60
    other, log_of_other, _ = learn(tokenizer, smaller, wider=True)
    assert same_weights(halved, other) and log.losses == log_of_other.losses


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (LiveTeacher, "signals", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        (loop.DistillationModule, "forward", MemoryError()),
        (loop.DistillationModule, "forward", RuntimeError("could not create a primitive")),
    ],
)
def test_forward_passes_that_do_not_fit_are_repeated_in_halves(
    owner: type, name: str, error: Exception, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the teacher or the student, in a later step than the first."""
    real, calls, said = getattr(owner, name), 0, list[str]()

    def short(self, *given):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise error
        return real(self, *given)

    stage = tiny_stage(max_tokens=120, max_steps=5)
    monkeypatch.setattr(owner, name, short)
    halved, log, _ = learn(tokenizer, stage, say=said.append)
    monkeypatch.setattr(owner, name, real)
    plain, log_of_plain, _ = learn(tokenizer, stage)
    (line,) = of_memory(said)
    assert "a step keeps its examples" in line and log.steps == 5
    # Without dropout smaller pieces differ by rounding alone.
    assert_alike(dict(halved.state_dict()), dict(plain.state_dict()), within=1e-5)
    for term, pairs in log.losses.items():
        assert [mean for _, mean in pairs] == pytest.approx([mean for _, mean in log_of_plain.losses[term]], rel=1e-4)


def test_an_optimiser_that_does_not_fit_ends_the_run_which_resumes_to_the_same_bits(
    tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller pieces would not help, and half of an update cannot be taken back."""
    real, calls, said, states = torch.optim.AdamW.step, 0, list[str](), list[dict]()

    def short(self, *given, **more):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *given, **more)

    stage = tiny_stage(max_steps=6)
    plain, _, _ = learn(tokenizer, stage, wider=True)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(torch.optim.AdamW, "step", short)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        learn(tokenizer, stage, wider=True, say=said.append, save=lambda state: states.append(copy.deepcopy(state)))
    assert len(states) == 3 and not of_memory(said)
    assert "a run with resume=True" in str(of_the_machine(caught.value))
    resumed, _, _ = learn(tokenizer, stage, wider=True, resumed=states[-1])
    assert same_weights(resumed, plain)


def test_one_text_that_does_not_fit_ends_the_run(tokenizer) -> None:
    accelerator = Accelerator(cpu=True)
    fails_once(accelerator, at=1)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        learn(tokenizer, tiny_stage(max_tokens=1), accelerator=accelerator)


def test_a_step_that_is_never_cut_names_the_setting_that_helps(tokenizer) -> None:
    accelerator = Accelerator(cpu=True)
    fails_once(accelerator, at=1)
    with pytest.raises(TutelageError, match=r"step of 16 examples .* \(settings stages\.all\.batch_size=8\)"):
        learn(tokenizer, tiny_stage(objective=[SimilarityMatrix()]), accelerator=accelerator)


def test_predictions_are_the_same_in_halves(tokenizer) -> None:
    model, encoded, said = tiny_model(), encode(examples(60, 1), tokenizer, 32), list[str]()
    whole = predict(model, encoded, Accelerator(cpu=True))
    counts: list[int] = []

    def short(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(short, with_kwargs=True)
    halves = predict(model, encoded, Accelerator(cpu=True), counts.append, said.append)
    assert sum(counts) == 60 and torch.allclose(whole, halves, atol=1e-5)
    sizes = [int(line.split("at most ")[1].split()[0]) for line in said]
    assert sizes == sorted(sizes, reverse=True) and 50 <= sizes[-1] <= 200


def test_predictions_are_kept_in_one_table(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors of many batches would keep the memory between them."""
    monkeypatch.setattr(teacher, "EVALUATION_TOKENS", 60)
    encoded, counts = encode(examples(60, 1), tokenizer, 32), list[int]()

    def count(texts: int) -> None:
        counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

    predict(tiny_model(), encoded, Accelerator(cpu=True), count)
    assert len(counts) > 5 and max(counts[2:]) <= counts[1]


def test_long_texts_are_tokenized_a_few_at_a_time(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tokenizer returns takes many times the memory of its texts."""
    given, sizes = examples(60, 1, pairs=True), list[int]()
    whole = encode(given, tokenizer, 32)

    def noting(texts: list[str], pairs: list[str], **more):
        sizes.append(sum(map(len, [*texts, *pairs])))
        return tokenizer(texts, pairs, **more)

    noting.model_input_names = tokenizer.model_input_names
    noting.pad_token_id, noting.sep_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    monkeypatch.setattr(data_examples, "CHARACTERS_AT_ONCE", 300)
    parts = encode(given, noting, 32)
    assert len(sizes) > 10 and max(sizes) <= 300
    for name in ("tokens", "types", "offsets", "cut"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_another_error_is_not_taken_for_exhausted_memory() -> None:
    def fail(rows: np.ndarray) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_pieces(fail, np.arange(4), np.full(4, 5), 20)


def megabytes(environment: dict[str, str]) -> dict[str, int]:
    """MB that are resident when large blocks were freed, and when the rest is trimmed; page faults of another such block."""
    os.environ.update(environment)
    begun = memory.resident_mb()
    assert begun is not None
    memory.keep()
    block = bytearray(b"1") * 2**27
    del block
    kept, before = memory.resident_mb() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"1") * 2**27
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
    memory.trim()
    return {"kept": kept, "faults": faults, "trimmed": memory.resident_mb() - begun}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_stays_until_it_is_trimmed() -> None:
    found = in_process(megabytes, {})
    assert found["kept"] > 100 and found["faults"] < 100 and found["trimmed"] < 20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_wins(name: str) -> None:
    found = in_process(megabytes, {name: "glibc.malloc.check=0" if name == "GLIBC_TUNABLES" else "65536"})
    assert found["kept"] < 20


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, ["64", None, "64"]),
        ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9", "LRU_CACHE_CAPACITY": "8"}, ["9", None, "8"]),
        ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "9"}, [None, "9", "64"]),
    ],
)
def test_the_package_bounds_the_caches_of_kernels_which_the_user_has_not(
    given: dict[str, str], kept: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(tutelage.__file__))
    assert [os.environ.get(name) for name in names] == kept


def run_short_of_memory(path: Path, most: int) -> None:
    """A run in whose second process pieces of more padded tokens than ``most`` do not fit."""
    forward, accelerator = loop.DistillationModule.forward, Accelerator()

    def short(self, batch, teacher):
        if self.training and accelerator.process_index == 1 and batch.mask.numel() > most:
            raise MemoryError
        return forward(self, batch, teacher)

    loop.DistillationModule.forward = short
    run(from_yaml(path), quiet=True)


@pytest.mark.slow
def test_one_of_two_processes_halves_its_pieces_alone(teacher_folder: Path, tmp_path: Path) -> None:
    def config(name: str) -> RunConfig:
        return run_config(
            kd().model_copy(update={"student": Copied(layers=1)}),
            {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")},
            ["stages.*.max_steps=6", "stages.*.batch_size=16", "stages.*.dropout=false"],
            teacher=str(teacher_folder / "teacher"),
            out=str(tmp_path / name),
        ).model_copy(update={"baseline": False})

    run(config("one"), quiet=True)
    (tmp_path / "two.yaml").write_text(to_yaml(config("two")))
    in_processes(2, run_short_of_memory, tmp_path / "two.yaml", 60)
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    assert_alike(two, one, within=1e-5)
