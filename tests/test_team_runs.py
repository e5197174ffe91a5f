"""What learns a team's distribution, at work: beside training, when it is killed, on which examples, from the console."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import examples, tiny_model

from tutelage import anatomy, api, cli
from tutelage.data.batches import Known
from tutelage.data.config import DataConfig
from tutelage.data.examples import encode
from tutelage.data.parts import held_part, part_of
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Weights, selected
from tutelage.methods.autoskdbert import autoskdbert
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.progress import Display
from tutelage.recipes.recipe import Stage
from tutelage.tasks import KINDS
from tutelage.tasks.load import load_data
from tutelage.teachers.teacher import KnownLogits
from tutelage.training import checkpoint, loop

STEPS, HELD = 32, 240
NOISY = {"update": "single", "unseen": True}

# ------------------------------------------------------------------------------------------------- beside the training


def learnt(tokenizer, monkeypatch, **how):
    """A stage that has learnt whom to draw of one who is right, one who answers anything and one who is wrong.

    Returns the weigher, the rewards of each update, and the lines of the log, one for each step.
    """
    monkeypatch.setattr(loop, "LOG_SECONDS", -1.0)
    encoded, held = (encode(examples(count, seed), tokenizer, 32) for count, seed in ((96, 1), (HELD, 5)))
    right = 4 * torch.nn.functional.one_hot(torch.from_numpy(encoded.labels), 2).float()
    anything = 4 * torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    teachers = [KnownLogits(table, encoded.logit_rows) for table in (right, anything, 4 - right)]
    learning = Learning(examples=24, **{"watch": 3, "travel": 8.0, **how})
    objective = [SoftLabels(temperature=2.0, weight=0.5), HardLabels(weight=0.5)]
    stage = Stage(name="s", objective=objective, epochs=99, max_steps=STEPS, batch_size=16, lr=1e-3, select="last")
    student, kind, accelerator = tiny_model(layers=2, spread=1.0), KINDS["classification"], Accelerator(cpu=True)
    team = TeamTeacher(teachers, Team(learning=learning), Weights([1, 1, 1]), kind, (0, 0), 2.0)
    names = ["right", "anything", "wrong"]
    sure = 4 * torch.nn.functional.one_hot(torch.from_numpy(held.labels), 2).float()
    unsure = 4 * torch.randn(HELD, 2, generator=torch.Generator().manual_seed(1))
    answers = [KnownLogits(table, held.logit_rows) for table in (sure, unsure, 4 - sure)]
    weigher = Weigher(learning, team, student, objective[0], held, answers, kind, accelerator, (0, 0), names)
    rewarded, events = [], []
    learn = weigher._learn
    monkeypatch.setattr(weigher, "_learn", lambda rewards, *rest: (rewarded.append(rewards), learn(rewards, *rest)))
    shape = anatomy.shape_of(student.config)
    lesson = loop.DistillationModule(student, Objective(objective, kind, shape, shape))
    loop.train(stage, lesson, team, Known(encoded), accelerator, 0, hooks=[weigher], report=events.append)
    return weigher, rewarded, events


def by_hand(update: str, rewarded: list[dict[int, float]], rate: float) -> list[np.ndarray]:
    """The distribution after each update, written out from the formulas: 3 teachers, shrink 0.6, the first 3 watched."""
    logs, mean, square, found = np.zeros(3), 0.0, 0.0, []
    for count, rewards in enumerate(rewarded, start=1):
        q = np.exp(logs) / np.exp(logs).sum()
        if update == "all":
            r = np.array([rewards[k] for k in range(3)])
            usual, usual_square = q @ r, q @ r**2
        else:
            ((k, r),) = rewards.items()
            usual, usual_square = r, r * r
        mean, square, seen = 0.98 * mean + 0.02 * usual, 0.98 * square + 0.02 * usual_square, 1 - 0.98**count
        deviation = np.sqrt(max(square / seen - (mean / seen) ** 2, 1e-12)) + 1e-8
        over = {"all": usual, "naive": 0.0}.get(update, mean / seen)
        advantage = np.clip((r - over) / deviation, -3, 3)
        if count > 3:
            if update != "naive":
                logs = logs * (1 - rate * 0.6 / 3)
            if update == "all":
                logs = logs + rate * advantage / 3
            elif update == "reinforce":
                logs = logs + rate * advantage * (np.eye(3)[k] - q)
            else:
                rarity = min(1 / q[k], 12) / 3 if update == "single" else 1.0
                logs = logs + rate * advantage * rarity * np.eye(3)[k]
        found.append(np.exp(logs) / np.exp(logs).sum())
    return found


@pytest.mark.parametrize(
    "how",
    [
        {"update": "single"},
        {"update": "reinforce"},
        {"update": "all"},
        {"update": "naive"},
        {"update": "single", "every": 3, "watch": 3},
        {"update": "all", "every": 5},
        {"update": "single", "unseen": True},
        {"update": "all", "unseen": True, "calibrated": True},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_each_update_moves_the_distribution_as_written(how: dict, tokenizer, monkeypatch) -> None:
    """Of the rewards that training gives; who is right gains on who is wrong, and the log shows each move."""
    weigher, rewarded, events = learnt(tokenizer, monkeypatch, **how)
    every = how.get("every", 1)
    assert len(rewarded) == -(-STEPS // every) == weigher.record()["updates"] and weigher.draws.sum() == STEPS
    wanted = by_hand(how["update"], rewarded, 8.0 / -(-STEPS // every))
    shown = {event.step: event.hooks for event in events}
    assert sorted(shown) == list(range(1, STEPS + 1))
    for step, beside in shown.items():
        assert list(beside) == ["right", "anything", "wrong"]
        assert list(beside.values()) == pytest.approx(wanted[(step - 1) // every], abs=1e-9), step
    assert [row[1:] for row in weigher.record()["history"]] == [list(shown[step].values()) for step in sorted(shown)]
    if how != NOISY and every == 1:  # else these are too few or too noisy
        assert shown[STEPS]["right"] > 1.2 * shown[STEPS]["wrong"]
        means = weigher.record()["reward"]
        assert means[0] > 0 > means[2]


@pytest.mark.parametrize("settled", [0.0, 0.25])
def test_what_is_found_is_the_mean_of_the_log_weights(settled: float, tokenizer, monkeypatch) -> None:
    weigher, _, events = learnt(tokenizer, monkeypatch, update="all", settled=settled)
    logs = np.log([list(event.hooks.values()) for event in sorted(events, key=lambda event: event.step)])
    wanted = np.exp((logs - logs.mean(axis=1, keepdims=True))[int(settled * STEPS) :].mean(axis=0))
    found = weigher.record()
    assert found["probabilities"] == pytest.approx(wanted / wanted.sum(), abs=1e-9)
    assert np.abs(np.subtract(found["probabilities"], found["history"][-1][1:])).max() > 0.01
    assert found["next"] == pytest.approx(selected(np.array(found["probabilities"]), Learning(keep=0.5)).tolist())


def test_the_distribution_is_shown_as_it_moves(tokenizer, monkeypatch, capsys) -> None:
    _, _, events = learnt(tokenizer, monkeypatch, update="all")
    with Display() as display:
        for event in events:
            if event.step in (3, STEPS):
                display._printed = 0.0
                display.event("student", event)
    lines = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert len(lines) == 2 and "right 0.333 anything 0.333 wrong 0.333" in lines[0]
    assert f"right {events[-1].hooks['right']:.3f} anything" in lines[1] and "0.333" not in lines[1]


def test_of_a_large_team_the_most_drawn_are_shown(tokenizer) -> None:
    weights = Weights([1, 6, 2, 5, 1, 4, 3])
    team = TeamTeacher([], Team(), weights, KINDS["classification"], (0, 0))
    student, held = tiny_model(), encode(examples(8, 5), tokenizer, 32)
    names = list("abcdefg")
    weigher = Weigher(
        Learning(), team, student, SoftLabels(), held, [], KINDS["classification"], Accelerator(cpu=True), (0, 0), names
    )
    assert weigher.shown() == pytest.approx({"b": 6 / 22, "c": 2 / 22, "d": 5 / 22, "f": 4 / 22, "g": 3 / 22})


def usual(weights: Weights) -> Weights:
    """It has seen fifty rewards of 1 and -1, at a rate of nothing."""
    for number in range(50):
        weights.update(0, (-1.0) ** number, 0.0)
    return weights


def gap(weights: Weights, k: int = 0) -> float:
    return float(weights.logs[k] - weights.logs[1 - k])


def test_no_reward_counts_more_than_three_deviations() -> None:
    for reward, wanted in ((1e3, 0.3), (-1e3, -0.3)):
        for update in ("update", "reinforce"):
            weights = usual(Weights([1, 1]))
            getattr(weights, update)(0, reward, 0.1, shrink=0)
            assert gap(weights) == pytest.approx(wanted, abs=1e-9), update
        naive = usual(Weights([1, 1]))
        naive.naive(0, reward, 0.1)
        assert gap(naive) == pytest.approx(wanted, abs=1e-9)
    joint = usual(Weights([0.99, 0.01]))
    joint.update_all(np.array([0.0, 1e3]), 0.1, shrink=0)
    before = np.log(0.99 / 0.01)
    # By half of the rate each: three deviations for the second, and for the first what it is below the mean of 10.
    assert 0 < before - gap(joint) - 0.15 < 0.05


def test_an_update_of_a_rare_teacher_counts_four_times_that_of_a_uniform_teams() -> None:
    moved = {}
    for p in (1 / 3, 0.2, 0.02, 1e-4):
        weights = usual(Weights([p, (1 - p) / 2, (1 - p) / 2]))
        before = gap(weights)
        weights.update(0, 1.5, 0.1, shrink=0)
        moved[p] = gap(weights) - before
    assert moved[0.2] / moved[1 / 3] == pytest.approx(5 / 3)  # as 1/p
    assert [moved[0.02] / moved[1 / 3], moved[1e-4] / moved[1 / 3]] == pytest.approx([4, 4])


# ---------------------------------------------------------------------------------------------------------- whole runs


class Killed(Exception):
    pass


def search(root: Path, out: Path, *settings: str, **more):
    """A run of three stages; weights move from the second update on."""
    recipe = autoskdbert()
    short = [
        "stages.*.lr=1e-3",
        "stages.search.max_steps=26",
        "stages.refine.max_steps=14",
        "stages.distill.max_steps=6",
    ]
    moving = [f"stages.*.team.learning.{value}" for value in ("watch=1", "examples=16", "travel=6")]
    moving.append("stages.search.team.learning.keep=0.01")
    return api.distill(
        None,
        str(out),
        team=[str(root / "teacher"), str(root / "random"), str(root / "second")],
        **{"method": recipe, "student": "layers=1,choose=first", "allow_weak_teacher": True, "baseline": False, **more},
        settings=[*short, *moving, *settings],
        train=str(root / "train.csv"),
        dev=str(root / "dev.csv"),
        quiet=True,
    ).report


# The last has all that the others keep, and more.
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("update=single",), marks=pytest.mark.slow),
        pytest.param(("update=all",), marks=pytest.mark.slow),
        ("unseen=true", "calibrated=true", "settled=0.25"),
    ],
    ids=" ".join,
)
def test_a_search_that_is_killed_when_weights_have_moved_goes_on(
    how: tuple[str, ...], teacher_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """In the search and in what refines it; the student and all that was found are the same, to the bit."""
    settings = [f"stages.*.team.learning.{value}" for value in how]
    whole = search(teacher_folder, tmp_path / "whole", *settings)
    assert any("may have been trained on the held-out examples" in w for w in whole["warnings"])
    save, left = checkpoint.save, 0
    last: list[checkpoint.State] = []

    def killing(folder: Path, state: checkpoint.State) -> None:
        nonlocal left
        save(folder, state)
        left -= 1
        last.append(state)
        if left == 0:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", killing)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    for number, (saves, step) in enumerate(((15, 15), (11 + 1 + 9, 9))):  # the end of a stage is a save too
        left = saves
        with pytest.raises(Killed):
            search(teacher_folder, tmp_path / "cut", *settings, resume=number > 0)
        assert last[-1]["work"] == number and last[-1]["log"]["steps"] == step
        logs = last[-1]["hooks.safetensors"]["0.weights"][:3]
        assert logs[logs.isfinite()].std() > 0.05  # they have moved
    left = -1
    cut = search(teacher_folder, tmp_path / "cut", *settings, resume=True)
    assert (
        cut["mechanisms"] == whole["mechanisms"]
        and len(cut["mechanisms"]["team"]["data"]["stages"][0]["history"]) == 26
    )
    ours, theirs = (tmp_path / name / "student" / "model.safetensors" for name in ("whole", "cut"))
    assert ours.read_bytes() == theirs.read_bytes()


def console(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command as it is typed."""
    before, out, err, code = sys.argv, io.StringIO(), io.StringIO(), 0
    sys.argv = ["tutelage", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def typed(teacher_folder: Path, tmp_path_factory) -> dict:
    """What ``team train``, ``team show`` and ``distill --team`` say, and which texts each stage has learnt from."""
    root, seen = tmp_path_factory.mktemp("typed"), []
    train = loop.train

    def watched(stage, lesson, teacher, feed, *rest, **more):
        known = {int(key) for epoch in range(2) for key in feed.read(epoch, feed.rows(epoch)).keys}
        if stage.name != "trial":
            seen.append((stage.name, known, next(iter(more.get("hooks", ())), None), teacher))
        return train(stage, lesson, teacher, feed, *rest, **more)

    files = ("--train", teacher_folder / "train.csv", "--dev", teacher_folder / "dev.csv")
    members = ("--member", "seed=0", "--member", "layers=2,seed=1,noise=0.4", "--member", "only=1/2,seed=2,epochs=3")
    model = ("--model", teacher_folder / "random", "--epochs", 2, "--lr", 3e-3)
    short = [
        part
        for setting in ("search.max_steps=12", "refine.max_steps=8", "distill.max_steps=5", "*.lr=1e-3")
        for part in ("--set", f"stages.{setting}")
    ]
    found = {"root": root, "files": files, "members": members, "model": model, "seen": seen}
    run = (
        "--team",
        root / "team",
        "--student",
        "layers=1,choose=first",
        *files,
        *short,
        "--allow-weak-teacher",
        "--no-baseline",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", watched)
        found["made"] = console("team", "train", *model, *members, *files, "--out", root / "team", "--json")
        found["trained"] = len(seen)
        found["run"] = console(
            "distill",
            "--method",
            "autoskdbert",
            *run,
            "--set",
            "stages.*.team.learning.update=reinforce",
            "--set",
            "stages.*.team.learning.watch=1",
            "--out",
            root / "run",
            "--json",
        )
    return found


def test_a_team_from_the_console(typed: dict) -> None:
    """Made, shown, distilled from: what programs read, and what people do."""
    root = typed["root"]
    for code, _, err in (typed["made"], typed["run"]):
        assert code == 0 and not err, err
    made, report = (json.loads(typed[name][1]) for name in ("made", "run"))
    assert [one["name"] for one in made["members"]][2] == "03-only1_2-seed2-epochs3"
    assert report["method"] == "autoskdbert" and [
        one["name"] for one in report["mechanisms"]["team"]["data"]["members"]
    ] == [one["name"] for one in made["members"]]
    assert [stage["updates"] for stage in report["mechanisms"]["team"]["data"]["stages"]] == [12, 8]
    assert not any("may have been trained on the held-out" in warning for warning in report["warnings"])
    assert [len(stage["history"]) for stage in report["mechanisms"]["team"]["data"]["stages"]] == [12, 8]
    code, out, err = console("team", "show", root / "team", "--json")
    assert code == 0 and json.loads(out) == made and not err
    code, out, _ = console("team", "show", root / "team")
    assert code == 0 and "at least one is right on" in out and "mean disagreement" in out
    # Once more: nothing is trained again, and another team does not take its place.
    assert json.loads(console("team", "train", *typed["model"], *typed["members"], *typed["files"], "--out",
        root / "team", "--json")[1]) == made  # fmt: skip


def test_a_chain_from_the_console(typed: dict, teacher_folder: Path) -> None:
    words = (
        "chain",
        "--teacher",
        teacher_folder / "teacher",
        "--through",
        "layers=2",
        "--student",
        "layers=1,choose=first",
    )
    words = (*words, *typed["files"], "--set", "stages.distill.max_steps=4", "--out", typed["root"] / "chain")
    code, out, err = console(*words, "--json")
    assert code == 0 and not err, err
    reports = json.loads(out)
    assert [report["student_layers"] for report in reports] == [2, 1] and reports[1]["teacher_layers"] == 2
    code, out, _ = console(*words)  # finished: only shown
    assert code == 0 and "assistant 1" in out and f"{reports[1]['student']['score']:.4f}" in out


def test_mistakes_end_in_one_line(typed: dict, teacher_folder: Path, tmp_path: Path) -> None:
    files, model, out = typed["files"], typed["model"], ("--out", tmp_path / "x")
    two = ("--member", "seed=0", "--member", "seed=1")
    cases = (
        (("team", "show", tmp_path / "nothing"), "a team needs at least two teachers; got 1"),
        (("team", "show", teacher_folder / "teacher", teacher_folder / "second"), "no data to compare the teachers on"),
        (("team", "train", *model, *files, "--member", "seed=0", *out), "at least two teachers"),
        (("team", "train", *model, *files, *two, "--member", "depth=3", *out), "a teacher has"),
        (("team", "train", *model, *files, *two, "--member", "layers=9", *out), "has 4 layers"),
        (("team", "train", *model, *files, *two, "--out", typed["root"] / "team"), "holds another team"),
        (("distill", "--method", "skdbert", "--team", tmp_path / "nothing", *files, *out), "there is no folder"),
        (("distill", "--method", "autoskdbert", *files, *out, "--team", typed["root"] / "team",
          "--set", "team.learning.update=all"), "stages."),
        (("chain", "--teacher", teacher_folder / "teacher", *files, *out), "--through"),
        (("team", "train", *model, *files, "--membr", "seed=0", *out), "--membr"),
    )  # fmt: skip
    for words, expected in cases:
        code, said, err = console(*words)
        assert code == 2 and expected in err and not said, (words, code, err)
        assert "Traceback" not in err, words
        if not expected.startswith("--"):  # else the command line's own box
            assert len(err.strip().splitlines()) == 1 and err.startswith("tutelage: "), (words, err)
        assert not (tmp_path / "x").exists(), words


def test_weights_are_learnt_on_train_alone_and_nobody_learns_from_it(typed: dict, tokenizer) -> None:
    """A tenth of train (here a fifth) tells which teachers help: neither they nor the student of a search have it, nor is it
    dev's."""
    files = typed["files"]
    data = load_data(DataConfig(train=str(files[1]), dev=str(files[3])))
    number, parts = held_part(len(data.train))
    inside = part_of(data.train, parts) == number

    def keys(these) -> set[int]:
        return set(map(int, encode(these, tokenizer, 32).keys))

    every, dev = keys(data.train), keys(data.dev["dev"])
    alike = [key for key, count in Counter(map(int, encode(data.train, tokenizer, 32).keys)).items() if count > 1]
    held = keys(data.train.take(np.flatnonzero(inside))) - set(alike)
    others = keys(data.train.take(np.flatnonzero(~inside)))
    assert len(every) > 390 and 70 < len(held) <= 80 == inside.sum()
    members, stages = typed["seen"][: typed["trained"]], typed["seen"][typed["trained"] :]
    assert len(members) == 3
    for _, known, _, _ in members:
        assert known <= others and held.isdisjoint(known)
    assert len(members[0][1]) > 280 and 130 < len(members[2][1]) <= 160  # the rest, but for its own choice, and half
    assert [name for name, *_ in stages] == ["search", "refine", "distill"]
    for name, known, weigher, _ in stages:
        if name == "distill":  # the student that is kept learns from these too
            assert weigher is None and known <= every and len(known & held) > 60
            continue
        told = set(map(int, weigher._held.keys))
        assert len(told) > 60 and told <= held | set(alike)
        assert told.isdisjoint(known - set(alike)) and known <= others and len(known) > 280
        assert told.isdisjoint(dev - every)


def test_stages_draw_by_their_names(typed: dict, teacher_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """One name and one seed: the same draws and held-out examples wherever the stage stands; another of either: others."""
    (search_, (_, _, refine, refine_team)) = typed["seen"][typed["trained"]], typed["seen"][typed["trained"] + 1]

    def drawn(team: TeamTeacher, weigher: Weigher) -> list:
        team.weights = Weights([1, 1, 1])
        held = [np.sort(np.concatenate([p.rows for p in weigher._held_parts(step)[0]])).tolist() for step in range(4)]
        return [[team.drawn(step) for step in range(60)], held]

    seen = []
    train = loop.train

    def watched(stage, lesson, teacher, *rest, **more):
        seen.append((stage.name, teacher, next(iter(more.get("hooks", ())), None)))
        return train(stage, lesson, teacher, *rest, **more)

    monkeypatch.setattr(loop, "train", watched)
    recipe = autoskdbert()
    only = recipe.stages[1].model_copy(update={"mechanisms": recipe.stages[0].mechanisms, "fresh": False})
    alone = recipe.model_copy(update={"stages": [only]})
    for seed in (0, 1):
        api.distill(
            None,
            str(tmp_path / str(seed)),
            team=str(typed["root"] / "team"),
            method=alone,
            student="layers=1,choose=first",
            allow_weak_teacher=True,
            baseline=False,
            seed=seed,
            settings=["stages.refine.max_steps=3"],
            train=str(teacher_folder / "train.csv"),
            dev=str(teacher_folder / "dev.csv"),
            quiet=True,
        )
    first, second = drawn(search_[3], search_[2]), drawn(refine_team, refine)
    again, other_seed = (drawn(team, weigher) for _, team, weigher in seen)
    assert second == again
    for one, other in ((first, second), (second, other_seed)):
        assert one[0] != other[0] and all(a != b for a, b in zip(one[1], other[1], strict=True))
