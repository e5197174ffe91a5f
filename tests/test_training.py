"""Batches, the optimiser and the loop: what must not change the result does not change it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import assert_alike, examples, make_data, tiny_model
from processes import KILLED, in_process, run_of
from safetensors.torch import load_file

from tutelage.anatomy import shape_of
from tutelage.data import batches
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.mechanisms.hook import Hook, parameter_groups
from tutelage.methods.kd import kd
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Stage
from tutelage.recipes.settings import run_config
from tutelage.report.model import load_report
from tutelage.run.loading import feed_of
from tutelage.run.run import run
from tutelage.run.workspace import LOCK, locked
from tutelage.students.copied import copy_layers
from tutelage.students.specs import Copied
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, LiveTeacher, predict
from tutelage.training import checkpoint, loop
from tutelage.training.optimizers import clip as clip_gradients
from tutelage.training.optimizers import learning_rate, optimizer_of

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


# --------------------------------------------------------------------------------------------------------- batches


def test_an_epoch_has_every_row_once_and_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    rows = np.arange(0, 1000, 2)
    one = batches.steps(lengths, rows, 32, seed=1, epoch=0)
    assert sorted(np.concatenate(one)) == list(rows)
    assert sorted(map(len, one))[1:] == [32] * 15
    again = batches.steps(lengths, rows, 32, seed=1, epoch=0)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    other = batches.steps(lengths, rows, 32, seed=1, epoch=1)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    seeded = batches.steps(lengths, rows, 32, seed=2, epoch=0)
    assert any(not np.array_equal(a, b) for a, b in zip(one, seeded, strict=True))


def test_pieces_keep_to_the_budget_and_lose_nothing() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    rows = np.arange(200)
    cut = batches.pieces(rows, lengths, 300)
    assert sorted(np.concatenate(cut)) == list(rows)
    assert all(lengths[piece].max() * len(piece) <= 300 for piece in cut)
    assert [len(p) for p in batches.pieces(rows[:3], np.array([500, 500, 500]), 300)] == [1, 1, 1]


def test_processes_share_a_step_and_its_totals(tokenizer) -> None:
    data = examples(33, 1)
    encoded = encode(data, tokenizer, 32)
    step = np.arange(33)
    parts = [list(batches.step_batches(encoded.take(step), step, rank, 2, 100)) for rank in (0, 1)]
    rows = sorted(int(r) for part in parts for batch in part for r in batch.rows)
    assert rows == list(range(33))
    totals = {batch.totals for part in parts for batch in part}
    assert totals == {batches.totals_of(encoded.take(step))}
    lonely = [list(batches.step_batches(encoded.take(step[:1]), step[:1], rank, 2, 100)) for rank in (0, 1)]
    assert lonely[0][0].totals.examples == 1
    assert lonely[1][0].totals.examples == float("inf")  # a lent row counts nothing


def test_padding_and_types(tokenizer) -> None:
    data = examples(6, 1, pairs=True)
    encoded = encode(data, tokenizer, 32)
    inputs = batches.padded(encoded, np.array([2, 0, 5]))
    for row, index in enumerate((2, 0, 5)):
        expected = tokenizer(data.texts[index], data.pairs[index])
        length = len(expected["input_ids"])
        assert inputs["input_ids"][row, :length].tolist() == expected["input_ids"]
        assert inputs["token_type_ids"][row, :length].tolist() == expected["token_type_ids"]
        assert inputs["attention_mask"][row].tolist() == [1] * length + [0] * (inputs["input_ids"].shape[1] - length)
    assert batches.padded(encoded, np.array([0]), pad_to=30)["input_ids"].shape == (1, 30)


def test_truncated_examples_are_counted(tokenizer) -> None:
    data = examples(50, 1)
    long = sum(len(tokenizer(text)["input_ids"]) > 9 for text in data.texts)
    encoded = encode(data, tokenizer, 9)
    assert encoded.truncated == long > 0
    assert encoded.lengths.max() == 9


# ------------------------------------------------------------------------------------------------------------ loop


def tiny_stage(**more) -> Stage:
    terms = [Embeddings(), Hidden(), AttentionScores(), SoftLabels(), HardLabels()]
    return Stage(
        **{"name": "all", "objective": terms, "epochs": 2, "lr": 3e-3, "batch_size": 16, "select": "last", **more}
    )


def learn(tokenizer, stage: Stage, *, wider: bool = False, **more):
    """Train a 2-layer student of a tiny random teacher; returns student, log and lesson."""
    data = make_data().train
    encoded = encode(data, tokenizer, 32)
    teacher = tiny_model(**NO_DROPOUT)
    # Narrower than its teacher, with dropout; or a copy without.
    narrow = tiny_model(seed=3, layers=2, hidden=16, spread=1.0)
    student = narrow if wider else copy_layers(teacher, Copied(layers=2), {})
    torch.manual_seed(5)
    objective = Objective(
        list(stage.objective), KINDS["classification"], shape_of(student.config), shape_of(teacher.config)
    )
    lesson = loop.DistillationModule(student, objective)
    accelerator = more.pop("accelerator", None) or Accelerator(cpu=True)
    source = more.pop("source", None) or LiveTeacher(teacher, objective.plan.teacher_needs, None, accelerator)
    log = loop.train(stage, lesson, source, batches.Known(encoded), accelerator, 0, **more)
    lesson.close()
    source.close()
    return student, log, lesson


def same_weights(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("term", [Embeddings(), Hidden(), AttentionScores(), SoftLabels(), HardLabels()])
def test_the_losses_fall(tokenizer, term) -> None:
    _, log, _ = learn(tokenizer, tiny_stage(objective=[term], epochs=12), wider=True)
    values = [value for _, value in log.losses[term.kind]]
    assert values[-1] < 0.9 * values[0]


def die_in_a_run(config: RunConfig) -> None:
    with locked(config.out):
        os.kill(os.getpid(), signal.SIGKILL)


def error_of_a_run(config: RunConfig) -> str:
    with pytest.raises(TutelageError) as caught:
        run(config, resume=True, quiet=True)
    return str(caught.value)


def test_a_folder_is_one_process_s_at_a_time(teacher_folder, tmp_path, capsys) -> None:
    """A second process with the same command would write over the first one's checkpoints; a dead one holds nothing."""
    config = run_config(
        kd().model_copy(update={"student": Copied(layers=1)}),
        {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")},
        ["stages.*.max_steps=2"],
        teacher=str(teacher_folder / "teacher"),
        out=str(tmp_path / "run"),
        baseline=False,
    )
    with locked(config.out):
        assert "another process writes to" in in_process(error_of_a_run, config)
    assert in_process(die_in_a_run, config) == KILLED
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    done = run(config, resume=True, quiet=True)
    assert done["stages"][0]["steps"] == 2 and not (tmp_path / "run" / LOCK).exists()
    # Who reads a finished run holds it for a moment: two studies may want the same teacher at once.
    reads, holds = threading.Event(), threading.Event()

    def read() -> None:
        with locked(config.out):
            holds.set()
            reads.wait(0.5)

    reader = threading.Thread(target=read)
    reader.start()
    assert holds.wait(60) and run(config, resume=True) == done
    reader.join()
    assert "waiting for another process that reads" in capsys.readouterr().err


def hold_often(config: RunConfig, log: Path, times: int) -> None:
    """Hold the folder again and again; while it is held, the log gets this process's number 40 times."""
    held = 0
    while held < times:
        try:
            with locked(config.out), log.open("a") as file:
                for _ in range(40):
                    file.write(f"{os.getpid()}\n")
                    file.flush()
                held += 1
        except TutelageError:
            pass


@pytest.mark.slow
def test_no_two_processes_hold_a_folder_whose_lock_is_removed(tmp_path) -> None:
    config, log = RunConfig(recipe=kd(), out=str(tmp_path / "run")), tmp_path / "log"
    with ThreadPoolExecutor(3) as all_three:
        for one in [all_three.submit(in_process, hold_often, config, log, 300) for _ in range(3)]:
            one.result()
    lines = log.read_text().split()
    turns = [set(lines[begin : begin + 40]) for begin in range(0, len(lines), 40)]
    assert len(turns) == 900 and len(set(lines)) == 3 and all(len(turn) == 1 for turn in turns)
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_first_step_is_reported_whole_when_it_is_cut_into_pieces(tokenizer) -> None:
    """Its losses are the step's however many pieces it takes; the gradient, of one piece, is scaled up with the loss."""
    cut, whole = (learn(tokenizer, tiny_stage(epochs=1, max_tokens=most), wider=True)[1] for most in (8, 10**6))
    for name, term in cut.first_step.items():
        assert term["loss"] == pytest.approx(whole.first_step[name]["loss"], rel=0.1)  # dropout differs
        assert term["gradient"] > 0.9 * whole.first_step[name]["gradient"]  # gradients of pieces at most add up


def test_terms_are_said_right_after_the_first_step(tokenizer) -> None:
    """Before the first line of the log, once a stage, with a warning where one decides alone."""
    said, events = list[str](), list[int]()

    def say(line: str) -> None:
        assert not events
        said.append(line)

    log = learn(tokenizer, tiny_stage(), say=say, report=lambda event: events.append(event.step), wider=True)[1]
    assert events
    assert said[0].startswith("first step of stage all: embeddings loss")
    assert all(f"loss {one['loss']:.3g}, gradient {one['gradient']:.3g}" in said[0] for one in log.first_step.values())
    (warning,) = said[1:]
    assert warning.startswith("warning: In the first step of stage all the gradient of hidden states is ")
    weight = re.search(r"--set stages.all.hidden.weight=(\S+)", warning)
    norms = [one["gradient"] for one in log.first_step.values()]
    assert weight and float(weight[1]) == pytest.approx(min(norms) / log.first_step["hidden"]["gradient"], rel=0.05)
    alone = list[str]()
    learn(tokenizer, tiny_stage(objective=[HardLabels()]), say=alone.append)
    assert not alone


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, list(range(1, 13))), (1e9, [6, 12])])
def test_lines_of_the_log_fall_on_steps(tokenizer, monkeypatch, seconds: float, expected: list[int]) -> None:
    """Each epoch's last step has a line, others when it is time; each line has the mean since the last."""
    events: list[loop.Event] = []
    monkeypatch.setattr(loop, "LOG_SECONDS", seconds)
    _, log, _ = learn(tokenizer, tiny_stage(), report=events.append)
    assert [event.step for event in events] == expected
    assert log.losses["soft_labels"] == [[event.step, event.losses["soft_labels"]] for event in events]
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    _, each, _ = learn(tokenizer, tiny_stage())
    values = [value for _, value in each.losses["soft_labels"]]
    for before, (step, mean) in zip([0, *expected], log.losses["soft_labels"], strict=False):
        assert mean == pytest.approx(np.mean(values[before:step]), rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("at", "optimizer"), [(1, "adamw"), (4, "adamw"), (9, "adamw"), (4, "bert_adam"), (4, "adadelta")]
)
def test_a_killed_run_resumes_to_the_same_bits(tokenizer, tmp_path, monkeypatch, at: int, optimizer: str) -> None:
    """With dropout, projections and momentum: all of it has to come back."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    stage = tiny_stage(optimizer=optimizer, **({"lr": 1.0} if optimizer == "adadelta" else {}))
    whole, _, whole_lesson = learn(tokenizer, stage, wider=True)

    calls = 0

    def save_and_die(state: checkpoint.State) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            checkpoint.save(tmp_path / "checkpoint", state)
            raise Killed

    with pytest.raises(Killed):
        learn(tokenizer, stage, wider=True, save=save_and_die)
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    resumed, log, lesson = learn(tokenizer, stage, wider=True, resumed=state)
    assert log.steps == 12
    assert same_weights(whole, resumed)
    assert same_weights(whole_lesson.objective, lesson.objective)


def test_the_scale_of_fp16_changes_nothing_and_an_overflow_skips_the_step(tokenizer, monkeypatch) -> None:
    """Gradients are clipped and looked at without the scale, and it is taken off once. A GPU's scaler, on the CPU."""
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: norms.append(float(clip(*a))))
    stage = tiny_stage(max_steps=3, objective=[Hidden(), HardLabels(weight=1000.0)])
    plain, _, _ = learn(tokenizer, stage)
    expected, norms[:] = norms[:], []

    def scaled(scale: float):
        accelerator = Accelerator(cpu=True)
        scaler = accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        monkeypatch.setattr(accelerator, "unscale_gradients", lambda optimizer: scaler.unscale_(optimizer.optimizer))
        student, _, _ = learn(tokenizer, stage, accelerator=accelerator)
        return student, scaler.get_scale()

    untouched = copy_layers(tiny_model(**NO_DROPOUT), Copied(layers=2), {})
    student, scale = scaled(1024.0)
    assert scale == 1024 and norms == pytest.approx(expected, rel=1e-4) and max(norms) > 1
    assert_alike(plain.state_dict(), student.state_dict(), within=1e-5)
    assert not same_weights(student, untouched)
    student, scale = scaled(2.0**127)
    assert scale == 2.0**124 and same_weights(student, untouched)


def test_pieces_do_not_change_the_step(tokenizer) -> None:
    """1 x 16 equals 4 x 4: gradient accumulation divides by the whole step's totals."""
    one, _, _ = learn(tokenizer, tiny_stage(max_steps=3))
    cut, _, _ = learn(tokenizer, tiny_stage(max_steps=3, max_tokens=40))
    assert_alike(one.state_dict(), cut.state_dict(), within=2e-5)


def test_padding_further_does_not_change_the_step(tokenizer) -> None:
    one, _, _ = learn(tokenizer, tiny_stage(max_steps=3))
    padded, _, _ = learn(tokenizer, tiny_stage(max_steps=3, pad_to=30))
    assert_alike(one.state_dict(), padded.state_dict(), within=2e-5)


def test_known_logits_teach_as_the_live_teacher_does(tokenizer) -> None:
    stage = tiny_stage(objective=[SoftLabels(temperature=2), HardLabels()])
    live, _, _ = learn(tokenizer, stage)
    data = make_data().train
    accelerator = Accelerator(cpu=True)
    encoded = encode(data, tokenizer, 32)
    table = predict(tiny_model(**NO_DROPOUT), encoded, accelerator)
    known, _, _ = learn(tokenizer, stage, source=KnownLogits(table, encoded.logit_rows))
    # Other batches, other padding: the same up to the order of a sum.
    assert_alike(live.state_dict(), known.state_dict(), within=1e-4)


def test_the_teacher_is_untouched_and_the_head_too_while_layers_are_matched(tokenizer) -> None:
    teacher, before = tiny_model(**NO_DROPOUT), tiny_model(**NO_DROPOUT)
    stage = tiny_stage(objective=[Embeddings(), Hidden(), AttentionScores()])
    needs = Objective(
        list(stage.objective), KINDS["classification"], shape_of(teacher.config), shape_of(teacher.config)
    )
    source = LiveTeacher(teacher, needs.plan.teacher_needs, None, Accelerator(cpu=True))
    # The objective of `learn` is for a 2-layer student; layers 2 and 4 of the teacher are among those asked for here.
    student, _, _ = learn(tokenizer, stage, source=source)
    assert same_weights(teacher, before)
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(student.classifier.weight, before.classifier.weight)
    assert torch.equal(student.bert.pooler.dense.weight, before.bert.pooler.dense.weight)


def test_the_best_epoch_is_kept_and_patience_ends_the_stage(tokenizer) -> None:
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.99])
    kept = []

    def score() -> float:
        return next(scores)

    stage = tiny_stage(objective=[HardLabels()], epochs=5, patience=2, select="best")
    student, log, _ = learn(tokenizer, stage, score=score, report=lambda event: kept.append(event))
    assert log.best == {"epoch": 2, "score": 0.9}
    assert log.epochs == 4
    again, _, _ = learn(
        tokenizer, tiny_stage(objective=[HardLabels()], epochs=5, max_steps=12), score=iter([0.5, 0.9]).__next__
    )
    assert not same_weights(student, again)  # another schedule: only shows that the comparison below can fail
    scores = iter([0.5, 0.9, 0.7, 0.8])
    repeat, _, _ = learn(tokenizer, stage, score=score)
    assert same_weights(student, repeat)


def test_of_equal_scores_the_later_is_kept(tokenizer) -> None:
    """And the stage goes on, as it does not for scores below."""
    stage = tiny_stage(objective=[HardLabels()], epochs=6, patience=2, select="best")
    _, log, _ = learn(tokenizer, stage, score=iter([0.9, 0.7, 0.9, 0.9, 0.8, 0.7]).__next__)
    assert log.best == {"epoch": 4, "score": 0.9} and log.epochs == 6


def chosen(tokenizer, scores: list[float], floor: float | None, **more):
    """Train for epochs with these scores; returns the student and the log."""
    stage = tiny_stage(objective=[HardLabels()], select="best", **{"epochs": 3, **more})
    return learn(tokenizer, stage, score=iter(scores).__next__, floor=floor)[:2]


def test_a_start_that_is_better_than_every_epoch_is_kept(tokenizer) -> None:
    start = copy_layers(tiny_model(**NO_DROPOUT), Copied(layers=2), {})
    student, log = chosen(tokenizer, [0.9, 0.5, 0.8, 0.7], 0.6)
    assert same_weights(student, start) and log.best == {"epoch": 0, "score": 0.9}
    assert log.scores == [[0, 0.9], [1, 0.5], [2, 0.8], [3, 0.7]] and log.epochs == 3
    _, log = chosen(tokenizer, [0.9, 0.5, 0.9, 0.7], 0.6)
    assert log.best == {"epoch": 2, "score": 0.9}  # of equals the later


@pytest.mark.parametrize("start", [0.1, 0.59, float("nan")])
def test_a_start_that_is_not_kept_changes_nothing(tokenizer, start: float) -> None:
    """One that scores less, and one within the floor, which is better by chance."""
    scores, floor = [0.5, 0.58, 0.4], 0.6
    whole, log = chosen(tokenizer, scores, None)
    student, other = chosen(tokenizer, [start, *scores], floor)
    assert same_weights(student, whole) and other.best == log.best == {"epoch": 2, "score": 0.58}
    assert [epoch for epoch, _ in other.scores] == [0, 1, 2, 3] and other.scores[1:] == log.scores


def test_patience_compares_epochs_with_epochs(tokenizer) -> None:
    """A student that fits at the start may fall back before it comes back."""
    _, log = chosen(tokenizer, [0.9, 0.5, 0.6, 0.7, 0.95, 0.8, 0.8], 0.0, epochs=6, patience=2)
    assert log.best == {"epoch": 4, "score": 0.95} and log.epochs == 6
    _, log = chosen(tokenizer, [0.9, 0.5, 0.4, 0.3], 0.0, epochs=6, patience=2)
    assert log.best == {"epoch": 0, "score": 0.9} and log.epochs == 3


def test_a_start_is_not_scored_while_a_hook_is_unfinished(tokenizer) -> None:
    class Late(Hook):
        def unfinished(self) -> bool:
            return True

    stage = tiny_stage(objective=[HardLabels()], select="best")
    _, log, _ = learn(tokenizer, stage, score=iter([0.5, 0.4]).__next__, floor=0.0, hooks=[Late()])
    assert log.scores == [[1, 0.5], [2, 0.4]] and log.best == {"epoch": 1, "score": 0.5}


@pytest.mark.parametrize("at", [1, 5])
def test_a_run_that_keeps_its_start_resumes_to_the_same_bits(teacher_folder, tmp_path, capsys, at: int) -> None:
    """A copy of the whole teacher, at a rate that destroys it."""
    reports = {}
    for name in ("whole", "cut"):
        config = run_config(
            kd().model_copy(update={"student": Copied(layers="all")}),
            {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")},
            ["stages.*.epochs=2", "stages.*.lr=0.9"],
            teacher=str(teacher_folder / "teacher"),
            out=str(tmp_path / name),
            baseline=False,
        )
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(config))
        if name == "cut":
            assert in_process(run_of, path, False, at) == KILLED
            state = checkpoint.load(tmp_path / "cut" / "checkpoint")
            assert state is not None and state["epoch"] == 0 and state["log"]["best"]["epoch"] == 0
        in_process(run_of, path, name == "cut")
        reports[name] = load_report(tmp_path / name)
    start = load_file(teacher_folder / "teacher" / "model.safetensors")
    whole, cut = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() == start.keys()
    assert all(torch.equal(start[name], whole[name]) and torch.equal(start[name], cut[name]) for name in start)
    one, two = (report.stages[0] for report in reports.values())
    assert one.best == two.best and one.scores == two.scores and [epoch for epoch, _ in one.scores] == [0, 1, 2]
    (finding,) = (found for found in reports["cut"].findings if found.kind == "training did not help")
    assert finding.remedy is not None and "lr=" in finding.remedy
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["epoch"], lines[0]["step"], lines[0]["losses"]) == (0, 0, {})
    assert [line["step"] for line in lines].count(0) == 1


def test_stages_of_labels_alone_skip_unlabelled_examples(tokenizer) -> None:
    data = make_data().train
    data.labels[:40] = -1
    encoded = encode(data, tokenizer, 32)
    student = tiny_model(layers=1)
    stage = tiny_stage(objective=[HardLabels()], epochs=1)
    lesson = loop.DistillationModule(
        student, Objective([HardLabels()], KINDS["classification"], shape_of(student.config), None)
    )
    log = loop.train(stage, lesson, None, feed_of(stage, encoded), Accelerator(cpu=True), 0)
    assert log.steps == -(-56 // 16)


def test_learning_rate() -> None:
    stage = tiny_stage(lr=1.0, warmup=0.2)
    rates = [learning_rate(stage, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] == pytest.approx(1 / 8)
    constant = tiny_stage(lr=1.0, warmup=0.0, decay="constant")
    assert {learning_rate(constant, step, 10) for step in range(10)} == {1.0}


def test_the_rate_of_bert_adam_is_the_one_of_berts_code() -> None:
    """``x / w`` while the share x of steps done is below w, then ``(x - 1) / (w - 1)``."""
    stage = tiny_stage(lr=2.0, warmup=0.25, optimizer="bert_adam")
    for step in range(10):
        done = step / 10
        expected = done / 0.25 if done < 0.25 else (done - 1) / (0.25 - 1)
        assert learning_rate(stage, step, 10) == pytest.approx(2 * expected)


@pytest.mark.parametrize(("clip", "betas", "eps"), [(0.3, (0.9, 0.999), None), (1e9, (0.8, 0.98), 1e-3)])
def test_bert_adam_against_a_slow_one(clip: float, betas: tuple[float, float], eps: float | None) -> None:
    """Loops over numbers in float64: each tensor clipped alone, no bias correction, decay beside the update."""
    stage = tiny_stage(lr=0.1, warmup=0.0, optimizer="bert_adam", clip=clip, weight_decay=0.05, betas=betas, eps=eps)
    one, two = betas
    generator = torch.Generator().manual_seed(0)
    matrix, vector = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((3, 2), (4,)))
    module = torch.nn.ParameterList([matrix.clone(), vector.clone()])
    optimizer = optimizer_of(stage, parameter_groups(module, stage.weight_decay), torch.device("cpu"))
    slow = {0: matrix.flatten().tolist(), 1: vector.tolist()}
    moments = {name: [[0.0, 0.0] for _ in values] for name, values in slow.items()}
    for step in range(6):
        rate = learning_rate(stage, step, 6)
        for parameter in module:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * (step + 0.1)
        given = {name: p.grad.flatten().tolist() for name, p in enumerate(module)}
        for group in optimizer.param_groups:
            group["lr"] = rate
        clip_gradients(stage, optimizer)
        optimizer.step()
        for name, values in slow.items():
            norm = sum(g * g for g in given[name]) ** 0.5
            for i, value in enumerate(values):
                g = given[name][i] * min(1.0, clip / (norm + 1e-6))
                m, v = moments[name][i]
                m, v = one * m + (1 - one) * g, two * v + (1 - two) * g * g
                moments[name][i] = [m, v]
                decay = 0.05 if name == 0 else 0.0  # vectors have none
                values[i] = value - rate * (m / (v**0.5 + (eps or 1e-6)) + decay * value)
        for name, parameter in enumerate(module):
            assert parameter.flatten().tolist() == pytest.approx(slow[name], rel=1e-9)


def test_adamw_has_the_stages_moments() -> None:
    module = torch.nn.Linear(2, 2)
    for given, expected in (({}, ((0.9, 0.999), 1e-8)), ({"betas": (0.9, 0.98), "eps": 1e-6}, ((0.9, 0.98), 1e-6))):
        stage = tiny_stage(**given)
        optimizer = optimizer_of(stage, parameter_groups(module, stage.weight_decay), torch.device("cpu"))
        assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {expected}


def test_a_loss_that_is_not_finite_ends_in_one_line(tokenizer) -> None:
    from tutelage.errors import TutelageError

    stage = tiny_stage(objective=[Hidden()], warmup=0.0, weight_decay=0.0, epochs=20)
    with pytest.raises(TutelageError, match=r"became (nan|inf).*settings stages"):
        learn(tokenizer, stage.model_copy(update={"lr": 1e25}))  # a rate that no setting has any more


def test_a_checkpoint_is_whole_or_absent(tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, {"n": 1, "a.safetensors": {"x": torch.ones(2)}})
    checkpoint.save(folder, {"n": 2, "a.safetensors": {"x": torch.zeros(2)}})
    # As a crash between the two renames leaves it.
    shutil.rmtree(tmp_path / "checkpoint.old")
    folder.rename(tmp_path / "checkpoint.old")
    state = checkpoint.load(folder)
    assert state is not None and state["n"] == 2 and torch.equal(state["a.safetensors"]["x"], torch.zeros(2))
    checkpoint.remove(folder)
    assert checkpoint.load(folder) is None


def test_a_label_order_of_the_teachers_moves_the_positive_class_too() -> None:
    data = make_data().with_labels(("positive", "negative"))
    assert data.positive == 0
    assert data.train.labels.tolist() == [1 - label for label in make_data().train.labels]
