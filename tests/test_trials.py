"""Short trials: which layers a student starts from, at which rate its twin learns; open epochs and rates; findings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from tutelage import anatomy, api
from tutelage.artifacts import signed
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.methods import METHODS
from tutelage.methods.compact import compact
from tutelage.methods.finetune import finetune
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import FirstToken, Hidden
from tutelage.progress import duration
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.findings import findings
from tutelage.report.model import Rise, TaskReport, Trial, load_report
from tutelage.run import budget, pairing, trials
from tutelage.run import task as of_tasks
from tutelage.run.folder import rise_of_run
from tutelage.run.task_plan import student_flops
from tutelage.run.workspace import bench
from tutelage.students.specs import Copied, Fresh
from tutelage.tasks import kind_of

SHORT = {"stages.*.max_steps": 12, "stages.*.lr": 3e-3}


def shape(layers: int) -> anatomy.Shape:
    return anatomy.shape_of(tiny_model(layers=layers).config)


def test_candidates_are_named_once() -> None:
    assert trials.starts(Copied(layers=3), shape(6)) == {
        "first": [1, 2, 3],
        "spread": [1, 4, 6],
        "uniform": [2, 4, 6],
        "last": [4, 5, 6],
        "first and last": [1, 2, 6],
    }
    assert list(trials.starts(Copied(layers=1), shape(2))) == ["first", "uniform"]


@pytest.mark.parametrize(
    "student", [Copied(layers=3, choose="first"), Copied(layers=[1, 3]), Copied(layers=4), Fresh(layers=2)]
)
def test_where_nothing_is_to_choose_nothing_is_tried(student: Any) -> None:
    assert trials.starts(student, shape(4)) == {}
    assert trials.starts(Copied(layers=2), None) == {}


def test_methods_that_mean_a_start_keep_it() -> None:
    starts = {name: make().student for name, make in METHODS.items()}
    chosen = {name: student.choose for name, student in starts.items() if isinstance(student, Copied)}
    assert {name for name, choose in chosen.items() if choose != "best"} == {
        "pkd",
        "pkd_reference",
        "ted",
        "distilbert",
        "distilbert_general",
        "alp_kd",
        "ckd",
        "rail_kd",
    }


def test_a_trial_asks_what_the_last_stage_asks_of_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "FEWEST", 20)
    last = compact().stages[-1].model_copy(update={"epochs": 2, "lr": 1e-4})
    stage = trials.trial_stage(last, 10_000, taught=True, labels=True)
    assert stage is not None and [term.kind for term in stage.objective] == ["soft_labels", "hard_labels"]
    assert stage.max_steps == trials.MOST
    alone = trials.trial_stage(last, 5, taught=False, labels=True)
    assert alone is not None and [term.kind for term in alone.objective] == ["hard_labels"]
    assert alone.max_steps == 5  # never more than the run has
    layers = METHODS["minilmv2"]().stages[1]
    assert trials.trial_stage(layers, 100, taught=True, labels=False) is None


def test_a_trial_that_diverged_is_not_taken(tmp_path: Path) -> None:
    """Its loss is no number, which neither compares nor is JSON."""
    given = {"untrained_loss": 1, "untrained_score": None, "score": None}
    tried = [Trial(name="best untrained", trained=False, loss=None, **given)]
    tried += [Trial(name=str(loss), loss=loss, **given) for loss in (None, 2)]
    main = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True, wait_for_everyone=lambda: None)
    ground: Any = SimpleNamespace(accelerator=main, held_out=[])
    assert trials.best_of(tmp_path / "rate.json", ground, lambda: tried, 9).chosen == "2"
    assert json.loads((tmp_path / "rate.json").read_text())["tried"][1]["loss"] is None
    assert trials.best_of(tmp_path / "start.json", ground, lambda: tried[:2], 9).chosen == "None"


@pytest.fixture(scope="module")
def distilled(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trials") / "run"
    api.distill(
        str(teacher_folder / "teacher"), out, student="layers=2", settings=SHORT, quiet=True,
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    return out


def test_the_best_start_is_taken_and_reported(distilled: Path, teacher_folder: Path) -> None:
    report = load_report(distilled)
    assert isinstance(report, TaskReport) and report.start is not None and report.twin_rates is not None
    losses = {one.name: one.loss for one in report.start.tried if one.loss is not None}
    assert report.start.chosen == min(losses, key=lambda name: losses[name])
    assert {one.name for one in report.twin_rates.tried} == {"0.003", "0.0075"}
    assert report.rates is None  # the settings name it
    assert report.start.texts == report.data.validation
    page = (distilled / "report.html").read_text(encoding="utf-8")
    assert f"{report.start.chosen} (taken)" in page and "Learning rate of the student without" in page
    assert not (distilled / trials.START).exists() and not (distilled / trials.TWIN).exists()


def test_all_starts_are_measured_and_the_best_few_are_trained(
    distilled: Path,
    teacher_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those with the lowest losses untrained; the terminal and the page show all."""
    monkeypatch.setattr(trials, "TRAINED", 2)
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="layers=2", baseline=False,
        settings={"stages.*.max_steps": 2, "stages.*.lr": 1e-3},
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    report = load_report(tmp_path / "run")
    assert isinstance(report, TaskReport) and report.start is not None
    tried = report.start.tried
    assert {one.name: one.untrained_loss for one in tried} == {
        one["name"]: one["untrained_loss"] for one in load_report(distilled).model_dump()["start"]["tried"]
    }
    best = sorted(tried, key=lambda one: one.untrained_loss)[:2]
    assert len(tried) == 4 and [one for one in tried if one.trained] == [one for one in tried if one in best]
    assert all((one.loss is not None) == (one.score is not None) == one.trained for one in tried)
    assert report.start.chosen == min(best, key=lambda one: one.loss or 0).name
    (table,) = (
        part for part in capsys.readouterr().err.split("start: ") if "is taken. The 2 with the lowest loss" in part
    )
    for one in tried:
        assert one.untrained_agreement is not None and 0 <= one.untrained_agreement <= 1
        (line,) = (line for line in table.splitlines() if line.startswith(f"  {one.name}"))
        assert f"{one.untrained_loss:.4f}" in line and (f"{one.loss:.4f}" if one.trained else "not trained") in line
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("not trained") == 2 and "Agreement with the teacher untrained" in page
    assert result.student.config.num_hidden_layers == 2


def test_the_agreement_of_a_start_is_with_the_teacher(teacher_folder: Path, tmp_path: Path) -> None:
    """A copy of all layers agrees everywhere."""
    from tutelage.students.copied import copy_layers

    data = DataConfig(train=str(teacher_folder / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    teacher = str(teacher_folder / "teacher")
    with bench(quiet=True) as desk:
        task = of_tasks.TaskRun(
            desk, RunConfig(recipe=compact(epochs=1), data=data, teacher=teacher, out=str(tmp_path))
        )
        stage = trials.trial_stage(task.config.recipe.stages[-1], 10, taught=True, labels=True)
        assert stage is not None and task.teacher is not None
        ground = trials.ground_of(task, stage)
        same = copy_layers(task.teacher.source.model, Copied(layers="all"), {})
        one = ground.untrained("all", stage, same)
        assert one.untrained_agreement == 1.0 and not one.trained and one.loss is None
        with torch.no_grad():
            same.get_submodule("classifier").weight.neg_()
            same.get_submodule("classifier").bias.neg_()
        assert ground.untrained("opposite", stage, same).untrained_agreement == 0.0


def test_the_expected_time_has_the_trials_in_it(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts and rates are counted before they are tried."""
    seen: list[int] = []
    train, choose, told = trials.loop.train, trials.choose, list[str]()

    def training(stage: Stage, *more: Any) -> Any:
        seen.append((stage.max_steps or 0) * stage.batch_size)
        return train(stage, *more)

    def choosing(run: Any, folder: Path) -> Any:
        with monkeypatch.context() as patch:
            one_a_second = {"student": {"32": speed.Timing(median=32e3, spread=0.0)}}
            patch.setattr(speed, "latencies", lambda *given, **how: (one_a_second, 1.0))
            for passes in (trials.passes, lambda run: 0):
                patch.setattr(trials, "passes", passes)
                told.append(next(line for line in run.plan().splitlines() if line.startswith("expected time")))
        monkeypatch.setattr(trials.loop, "train", training)
        found = choose(run, folder)
        monkeypatch.setattr(trials.loop, "train", train)
        seen.append(trials.passes(run))
        (plan,) = run.plans
        seen.append(round(plan.steps * plan.stage.batch_size * plan.flops / student_flops(run)))
        return found

    monkeypatch.setattr(trials, "choose", choosing)
    api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="layers=2", quiet=True, baseline=False,
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv", settings={"stages.distill.epochs": 2},
    )  # fmt: skip
    *trained, passes, planned = seen
    # All starts are measured untrained, also beside the teacher; each that is trained is measured again, and so is the other rate.
    count = len(trials.starts(Copied(layers=2), shape(4)))
    assert len(trained) == trials.TRAINED + 1 and count == 4
    assert passes == (count + 1) * 3 * 40 + sum(3 * one + 2 * 40 for one in trained)
    assert told == [
        f"expected time on this machine: about {duration(seconds)}{more}, without the baseline"
        for seconds, more in ((planned + passes, ", with the trials"), (planned, ""))
    ]
    assert told[0] != told[1]


@pytest.mark.parametrize(
    "student", ["layers=1", "layers=1,tune=matrices", "layers=1,choose=first,tune=matrices,source={}"]
)
def test_the_student_begins_with_the_layers_that_were_taken(student: str, teacher_folder: Path, tmp_path: Path) -> None:
    """With a rate so small that training changes nothing. Layers of the teacher are fitted to its last where that is wanted."""
    from transformers import AutoModelForSequenceClassification

    still = {"stages.*.max_steps": 2, "stages.*.lr": 1e-12, "stages.*.weight_decay": 0.0}
    given = {"student": student.format(teacher_folder / "teacher"), "settings": still, "quiet": True, "baseline": False}
    texts = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder / "teacher")
    result = api.distill(str(teacher_folder / "teacher"), tmp_path / "run", **given, **texts)
    start = result.report["start"]
    taken = int(start["chosen"].rpartition(" ")[2]) if start else 1
    kept = dict(anatomy.layers_of(result.student)[0].state_dict())
    fitted = {f"{path}.{part}" for path in ("attention.output.dense", "output.dense") for part in ("weight", "bias")}
    for name, value in anatomy.layers_of(teacher)[taken - 1].state_dict().items():
        if student == "layers=1,tune=matrices" and name in fitted:
            assert not torch.allclose(kept[name], value, atol=1e-3)
        else:
            torch.testing.assert_close(kept[name], value, rtol=0, atol=1e-6)


def test_a_copied_layer_is_paired_with_the_one_that_it_was_copied_from() -> None:
    """The last with the teacher's last; a term that names a mapping keeps it, and so does a student of other layers."""
    terms = [Hidden(), Hidden(layers="uniform"), AttentionScores(), FirstToken()]
    teacher = shape(6)
    for student, mapping in (
        (Copied(layers=[1, 4, 6]), [1, 4, 6]),
        (Copied(layers=3, choose="first"), [1, 2, 6]),
        (Copied(layers=3, choose="last"), [4, 5, 6]),
    ):
        found = pairing.paired(terms, pairing.copied_layers(student, teacher, teacher), teacher.layers)
        assert [term.layers for term in found] == [mapping, "uniform", mapping, "skip"]
        assert found[0].pairs(shape(3), teacher) == list(enumerate(mapping, start=1))
    for student, source in ((Fresh(layers=3), teacher), (Copied(layers=[1, 4, 6]), shape(7)), (Copied(layers=2), None)):
        assert pairing.copied_layers(student, source, teacher) is None
    assert pairing.paired(terms, None, 6) == terms
    named = [
        (stage.name, term.kind, term.layers)
        for name in ("tinybert_reference", "dynabert", "rosita", "mt_bert")
        for stage in METHODS[name]().stages
        for term in stage.objective
        if isinstance(term, Hidden | AttentionScores)
    ]
    assert len(named) > 6 and {layers for *_, layers in named} == {"uniform"}  # as their papers have it
    assert {term.layers for term in METHODS["tinybert"]().stages[1].objective[1:]} == {"origin"}


def test_layers_are_paired_by_the_start_that_trials_choose(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store has the layers of all starts, so that the stage reads it whichever is chosen."""
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    stage = compact().stages[0]
    recipe = compact().model_copy(
        update={"stages": [stage.model_copy(update={"objective": [*stage.objective[:2], Hidden()]})]}
    )
    answers: list[str] = []
    begin = of_tasks.TaskRun.begin

    def seen(run: Any, index: int, logs: Any) -> Any:
        work = begin(run, index, logs)
        answers.append(type(work.teacher).__name__)
        return work

    monkeypatch.setattr(of_tasks.TaskRun, "begin", seen)
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="layers=2", method=recipe, teacher_store="auto", quiet=True,
        baseline=False, settings={"stages.*.max_steps": 2, "stages.*.lr": 1e-3},
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    first = int(result.report["start"]["chosen"].split()[-2])
    (mapped,) = result.report["mapping"]
    assert mapped["pairs"] == [[1, first], [2, 4]]
    assert answers == ["StoredTeacher"] and "1, 2, 3, 4" in result.report["store"]["keeps"]


def test_candidates_are_layers_of_the_model_that_they_are_copied_from(teacher_folder: Path, tmp_path: Path) -> None:
    """Not of the teacher, which may be shallower."""
    deep = tmp_path / "deep"
    tiny_model(layers=6).save_pretrained(deep)
    for file in (teacher_folder / "teacher").glob("*token*"):
        shutil.copy(file, deep)
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student=Copied(layers=2, source=str(deep)), quiet=True,
        settings={"stages.*.max_steps": 2}, baseline=False,
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    assert {one["name"] for one in result.report["start"]["tried"]} == {
        "first: 1 2", "spread: 1 6", "uniform: 3 6", "last: 5 6",
    }  # fmt: skip


def test_few_texts_are_tried_beside_half_of_them(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same start and as many steps; whatever else is tried has them all."""
    rows, train = list[int](), trials.loop.train

    def training(stage: Stage, module: Any, teacher: Any, feed: Any, *more: Any) -> Any:
        rows.append(len(set(feed.rows(0))))
        return train(stage, module, teacher, feed, *more)

    monkeypatch.setattr(trials, "loop", SimpleNamespace(**{**vars(trials.loop), "train": training}))
    monkeypatch.setattr(trials, "FEWEST", 5)  # of 32 texts each
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="layers=2", settings=SHORT, quiet=True, max_train=64,
        baseline=False, train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    start, half = result.report["start"], result.report["half"]
    assert rows == [57] * trials.TRAINED + [28]
    assert [one["name"] for one in half["tried"]] == ["28 texts", "57 texts"]
    (taken,) = (one for one in start["tried"] if one["name"] == start["chosen"])
    fewer, every = half["tried"]
    assert every["loss"] == taken["loss"] != fewer["loss"] and fewer["untrained_loss"] == taken["untrained_loss"]
    assert not (tmp_path / "run" / trials.HALF).exists()


def test_a_stopped_run_reads_its_trials(tmp_path: Path) -> None:
    found = trials.Trials(chosen="b", steps=3, texts=5, tried=[])
    (tmp_path / trials.START).write_text(signed(found.model_dump(mode="json")), encoding="utf-8")

    part = tmp_path / "start.part.json"
    part.write_text("killed before this was removed")

    def never() -> list[trials.Trial]:
        raise AssertionError("tried again")

    ground: Any = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True))
    assert trials.best_of(tmp_path / trials.START, ground, never, 3) == found
    assert not part.exists()


class Killed(Exception):
    pass


def test_a_run_that_is_stopped_between_trials_goes_on_with_the_next(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes what the whole run takes."""
    given: dict[str, Any] = {
        "student": "layers=2", "settings": {"stages.*.max_steps": 2, "stages.*.lr": 1e-3}, "quiet": True, "baseline": False,
        "train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv",
    }  # fmt: skip
    whole = api.distill(str(teacher_folder / "teacher"), tmp_path / "whole", **given).report["start"]
    train, count = trials.loop.train, 0

    def counted(*more: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        return train(*more)

    monkeypatch.setattr(trials, "loop", SimpleNamespace(**{**vars(trials.loop), "train": counted}))
    with pytest.raises(Killed):
        api.distill(str(teacher_folder / "teacher"), tmp_path / "run", **given)
    assert (tmp_path / "run" / "start.part.json").exists()
    again = api.distill(str(teacher_folder / "teacher"), tmp_path / "run", resume=True, **given).report["start"]
    assert again == whole and count == 1 + trials.TRAINED  # the interrupted one is made again, the first is not
    assert not list((tmp_path / "run").glob("*.part.json"))


# -------------------------------------------------------------------------------------------------- epochs and rates


@pytest.mark.parametrize(
    ("hidden", "random", "rate"), [(768, False, 3e-5), (384, False, 1.2e-4), (312, True, 7.3e-4), (64, True, 1e-3)]
)
def test_rates_follow_the_width(hidden: int, random: bool, rate: float) -> None:
    assert budget.peak_rate(hidden, random=random) == pytest.approx(rate)


@pytest.mark.parametrize(("examples", "epochs"), [(100, 20), (3300, 12), (8000, 5), (60_000, 3)])
def test_open_epochs_give_steps_enough(examples: int, epochs: int) -> None:
    stage = budget.settled(finetune(Copied()), lambda stage: examples, 768).stages[0]
    assert stage.epochs == epochs and stage.patience == budget.PATIENCE and stage.lr == 3e-5


def test_an_open_rate_is_tried(teacher_folder: Path, tmp_path: Path) -> None:
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="layers=2,choose=first", quiet=True,
        settings={"stages.*.max_steps": 5}, train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    tried = {one["name"]: one["loss"] for one in result.report["rates"]["tried"]}
    assert set(tried) == {"0.001", "0.0025"}
    chosen = min(tried, key=lambda name: tried[name])
    assert result.report["rates"]["chosen"] == chosen
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    peak = max(line["lr"] for line in lines if line["who"] == "student")
    assert peak <= float(chosen) and peak > float(chosen) / 10
    # The twin begins from the student's rate.
    assert {one["name"] for one in result.report["twin_rates"]["tried"]} == {chosen, f"{2.5 * float(chosen):.2g}"}


def test_what_a_recipe_says_stays() -> None:
    recipe = METHODS["kd"]()
    assert budget.settled(recipe, lambda stage: 100, 64) == recipe


def test_on_a_corpus_both_are_numbers() -> None:
    general = METHODS["tinybert"]().stages[0]
    with pytest.raises(ValueError, match="on a corpus, where epochs and lr are numbers"):
        Stage.model_validate(general.model_dump() | {"epochs": "auto"})


# ------------------------------------------------------------------------------------------------------- selection


def test_a_constant_answer_is_never_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of F1 it is the best score: two texts of three are positive. The log gives that score, and says why 0 stands beside it."""
    from tutelage.data.examples import Data, Examples
    from tutelage.data.texts import Texts

    labels = np.array([1, 1, 0, 1, 1, 0])
    examples = Examples(ids=list("abcdef"), texts=list("abcdef"), pairs=None, labels=labels)
    data = Data(
        "mrpc", "classification", ("no", "yes"), ("f1", "accuracy"), examples, {}, selected_by=("f1", "accuracy")
    )
    texts, kind = Texts(examples, None, None), kind_of("classification")  # type: ignore[arg-type]
    constant = torch.tensor([[0.0, 1.0]]).repeat(6, 1)
    useful = constant.clone()
    useful[[2, 0]] = torch.tensor([1.0, 0.0])
    assert kind.scores(data, constant, texts)["f1"] > kind.scores(data, useful, texts)["f1"]
    assert kind.selection_score(data, constant, texts) == 0.0
    assert kind.selection_score(data, useful, texts) == pytest.approx((0.75 + 4 / 6) / 2)
    # What differs from a constant answer in one text of six shows nothing, though it scores more than what is useful.
    nearly = constant.clone()
    nearly[2] = torch.tensor([1.0, 0.0])
    floor = kind.selection_floor(data, examples)
    assert floor == pytest.approx((0.8 + 4 / 6) / 2 + 0.5 / 6**0.5)
    assert kind.selection_score(data, useful, texts) < kind.selection_score(data, nearly, texts) < floor
    said: list[str] = []
    desk = SimpleNamespace(accelerator=None, display=SimpleNamespace(say=said.append))
    read = SimpleNamespace(kind=kind, data=data, selection=texts)
    run = SimpleNamespace(bench=desk, texts=read, _told_constant=False)
    for logits, score in ((constant, 0.0), (useful, (0.75 + 4 / 6) / 2)):
        monkeypatch.setattr(of_tasks, "predict", lambda *given, logits=logits, **more: logits)
        assert of_tasks.TaskRun.score(run, None) == pytest.approx(score)  # type: ignore[arg-type]
    assert said == ["constant answer: the validation split's texts all get the same one (f1 0.8000), which is scored 0"]


def test_a_metric_of_ones_own_leads(teacher_folder: Path) -> None:
    from tutelage.data.config import DataConfig
    from tutelage.tasks.load import load_data

    files = {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")}
    data = load_data(DataConfig(**files, metric="macro_f1"))
    assert data.metrics == ("macro_f1", "accuracy") and data.selected_by == ("macro_f1",)
    with pytest.raises(TutelageError, match="metric spearman: a task of kind classification has accuracy"):
        load_data(DataConfig(**files, metric="spearman"))


# -------------------------------------------------------------------------------------------------------- findings


def test_the_first_step_is_reported(distilled: Path) -> None:
    report = load_report(distilled)
    first = report.stages[0].first_step
    assert set(first) == {"soft_labels", "hard_labels", "hidden"}
    assert all(one.loss > 0 and one.gradient > 0 for one in first.values())
    assert not report.stages[-1].first_step  # the twin's has one term


def test_trials_are_measured_on_texts_of_all_classes(teacher_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Also where there are more than are read, in a file that is sorted by class."""
    lines = (teacher_folder / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text(
        "\n".join([lines[0], *sorted(lines[1:], key=lambda line: line.rpartition(",")[2])])
    )
    monkeypatch.setattr(trials, "HELD_OUT", 12)
    data = DataConfig(train=str(tmp_path / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    config = RunConfig(
        recipe=compact(epochs=1), data=data, teacher=str(teacher_folder / "teacher"), out=str(tmp_path / "run")
    )
    with bench(quiet=True) as desk:
        task = of_tasks.TaskRun(desk, config)
        stage = trials.trial_stage(task.config.recipe.stages[-1], 10, taught=True, labels=True)
        assert stage is not None
        kept = trials.ground_of(task, stage).held_out
    labels = task.texts.selection.examples.labels
    assert len(kept) == 12 and set(labels[:12]) < set(labels)
    assert set(kept.labels) == set(labels)


def found(report: TaskReport, **changed: Any) -> dict[str, str]:
    return {one.kind: f"{one.text} {one.remedy}" for one in findings(report.model_copy(update=changed))}


def test_findings(distilled: Path) -> None:
    report = load_report(distilled)
    assert isinstance(report, TaskReport) and report.baseline is not None
    fine = report.model_copy(update={"start": None, "chance": {}})
    student = fine.student.model_copy(update={"score": 0.9, "retention": 0.99, "against_label": 0.01})
    data = fine.data.model_copy(update={"train": 5000, "truncated": {}})
    stage = fine.stages[0].model_copy(update={"first_step": {}, "best": None})
    fine = fine.model_copy(
        update={
            "student": student,
            "data": data,
            "stages": [stage],
            "baseline": fine.baseline.model_copy(update={"score": 0.8}),
            "teacher": fine.teacher.model_copy(update={"score": 0.91}),
        }
    )
    assert found(fine) == {}
    better = fine.baseline.model_copy(update={"score": 0.95})
    assert "reaches 0.950 (difference" in found(fine, baseline=better)["twin is better"]
    few = data.model_copy(update={"train": 300})
    assert "--unlabeled" in found(fine, data=few)["few texts"]
    assert found(fine, data=few, kind="tokens")["few texts"].endswith(
        "Give more texts."
    )  # no file of texts alone is read
    tried = [
        Trial(name=f"{texts:,} texts", examples=texts, untrained_loss=1.0, untrained_score=0.2, loss=loss, score=score)
        for texts, loss, score in ((500, 0.4, 0.6), (1000, 0.3, 0.65))
    ]
    half = trials.Trials(chosen="1,000 texts", steps=100, texts=50, tried=tried)
    sure = fine.data.model_copy(update={"train": 5000, "truncated": {}, "validation": 10_000})
    told = found(fine, half=half, data=sure)["few texts"]
    assert "After 100 steps on 500 texts the held-out loss is 0.400, on 1,000 texts 0.300, and the validation" in told
    # 0.05 for each doubling, and log2(3) doublings.
    assert "score 0.600 and 0.650. If each doubling adds as much, 2,000 more texts would give about +0.079." in told
    assert "on 10,000 validation texts is up to 0.007: the rise is more than chance." in told
    assert "up to 0.112: take it as a direction" in found(fine, half=half, data=data)["few texts"]
    short = [one.model_copy(update={"examples": one.examples // 10}) for one in tried]
    assert (
        "200 more texts would give about +0.079"
        in found(fine, half=half.model_copy(update={"tried": short}))["few texts"]
    )
    lower = half.model_copy(update={"tried": [tried[0], tried[1].model_copy(update={"score": 0.55})]})
    assert "The loss says that more texts would help, the score does not (the" in found(fine, half=lower)["few texts"]
    level = half.model_copy(update={"tried": [tried[0], tried[1].model_copy(update={"loss": 0.39})]})
    assert "few texts" not in found(fine, half=level)
    assert (
        "10.0\N{NO-BREAK SPACE}%"
        in found(fine, data=data.model_copy(update={"truncated": {"train": 500}}))["texts are cut"]
    )
    more = data.model_copy(update={"truncated": {"train": 500}, "unlabeled": 95_000})
    assert "texts are cut" not in found(fine, data=more)
    assert "doubtful labels" in found(fine, student=student.model_copy(update={"against_label": 0.2}))
    assert "capacity" in found(fine, student=student.model_copy(update={"retention": 0.7}))
    best = {"epochs": 3, "scores": [(1, 0.5), (2, 0.6), (3, 0.9)], "best": {"epoch": 3, "score": 0.9}}
    improving = type(stage).model_validate(stage.model_dump() | best)
    assert f"--set stages.{stage.name}.epochs=6" in found(fine, stages=[improving, stage])["still improving"]
    # From its start the first epoch may go a long way, and the last one no further.
    best = {"epochs": 2, "scores": [(0, 0.2), (1, 0.9), (2, 0.9)], "best": {"epoch": 2, "score": 0.9}}
    settled = type(stage).model_validate(stage.model_dump() | best)
    assert found(fine, stages=[settled, stage]) == {}
    best = {"epochs": 2, "scores": [(0, 0.9), (1, 0.5), (2, 0.6)], "best": {"epoch": 0, "score": 0.9}}
    worse = type(stage).model_validate(stage.model_dump() | best)
    assert found(fine, stages=[worse, stage]) == {
        "training did not help": f"The student scored 0.900 on the validation split before stage {stage.name}, and at most 0.600 "
        f"after its epochs: its start was kept. Lower the learning rate (--set stages.{stage.name}.lr=RATE); or, if the "
        f"teacher learnt texts of the validation split, keep the last epoch (--set stages.{stage.name}.select=last)."
    }
    assert found(fine, stages=[stage, worse])["training did not help"].startswith("The twin scored 0.900")
    rise = Rise(stage="finetune", epochs=3, by=0.05)
    assert found(fine, teacher_rise=rise)["teacher still improving"] == (
        "The teacher was still improving in the last of 3 epochs of its own training: by 0.050 on its validation split. "
        "Train it longer before it teaches: tutelage finetune --epochs 6."
    )
    starts = [
        Trial(name=name, untrained_loss=1.0, untrained_score=untrained, loss=loss, score=0.5)
        for name, untrained, loss in (("spread: 1 4", 0.4, 0.3), ("first: 1 2", 0.2, 0.8))
    ]
    start = trials.Trials(chosen="spread: 1 4", steps=100, texts=50, tried=starts)
    told = found(fine, start=start)
    assert set(told) == {"start"} and "--student layers=1+4." in told["start"]
    poor = found(fine, start=start, student=student.model_copy(update={"retention": 0.94}))["poor start"]
    assert "Without training the best start scores 0.400 on the validation split, and 0.500 after 100 steps" in poor
    assert "(--student flops=0.5), or more layers (--student layers=3)" in poor
    good = start.model_copy(update={"tried": [starts[0].model_copy(update={"untrained_score": 0.5})]})
    assert "poor start" not in found(fine, start=good, student=student.model_copy(update={"retention": 0.94}))
    norms = {"soft_labels": {"loss": 1.0, "gradient": 1.0}, "attention_scores": {"loss": 40.0, "gradient": 40.0}}
    ruled = type(stage).model_validate(stage.model_dump() | {"first_step": norms})
    remedy = found(fine, stages=[ruled])["one term decides"]
    assert "attention_scores.weight=WEIGHT" in remedy
    norms["soft_labels"]["loss"] = 1e-3  # the start meets it: it agrees with its teacher
    ruled = type(stage).model_validate(stage.model_dump() | {"first_step": norms})
    assert "one term decides" not in found(fine, stages=[ruled])


def test_a_teacher_that_its_own_run_left_improving_is_found(teacher_folder: Path, tmp_path: Path) -> None:
    """In the report beside its weights; a teacher of no run, or of a damaged report, is passed over."""
    texts = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv", "quiet": True}
    api.finetune(
        teacher_folder / "teacher", tmp_path / "teacher", epochs=1, settings={"stages.*.max_steps": 1}, **texts
    )
    report = json.loads((tmp_path / "teacher" / "report.json").read_text(encoding="utf-8"))
    stage = {"epochs": 3, "scores": [[1, 0.1], [2, 0.2], [3, 0.9]], "best": {"epoch": 3, "score": 0.9}}
    report["stages"][-1] |= stage
    (tmp_path / "teacher" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    common = {"method": "kd", "student": "layers=2,choose=first", "baseline": False, **texts}
    common |= {"settings": {"stages.*.max_steps": 1}}
    result = api.distill(str(tmp_path / "teacher"), tmp_path / "run", **common)
    assert result.report["teacher_rise"] == {"stage": "finetune", "epochs": 3, "by": pytest.approx(0.7)}
    assert "teacher still improving" in {one["kind"] for one in result.report["findings"]}
    (tmp_path / "teacher" / "report.json").write_text("{", encoding="utf-8")
    assert rise_of_run(str(tmp_path / "teacher")) is None
    assert rise_of_run(str(teacher_folder / "teacher")) is None and rise_of_run("some/hub-id") is None


def test_terms_that_a_model_does_not_allow_are_left_out(teacher_folder: Path, tmp_path: Path) -> None:
    """Compact works for a student without layers: its term on hidden states is optional."""
    given = {"settings": {"stages.*.max_steps": 3}, "quiet": True, "baseline": False}
    result = api.distill(
        str(teacher_folder / "teacher"), tmp_path / "run", student="words=50,hidden=8", **given,
        train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
    )  # fmt: skip
    assert any("leaves out hidden: " in line for line in result.report["warnings"])
    needed: Recipe = compact()
    hidden = needed.stages[0].objective[-1].model_copy(update={"optional": False})
    stage = needed.stages[0].model_copy(update={"objective": [*needed.stages[0].objective[:-1], hidden]})
    with pytest.raises(TutelageError, match="reads more than predictions"):
        api.distill(
            str(teacher_folder / "teacher"), tmp_path / "never", student="words=50,hidden=8", **given,
            method=needed.model_copy(update={"stages": [stage]}),
            train=teacher_folder / "train.csv", dev=teacher_folder / "dev.csv",
        )  # fmt: skip


def test_a_stage_on_layers_is_scored_under_the_teachers_head(teacher_folder: Path, tmp_path: Path) -> None:
    """A copied student has the head; a new one's answers would say nothing."""
    texts = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    common = {"method": "minilmv2", "settings": SHORT, "quiet": True, "baseline": False, **texts}
    teacher = str(teacher_folder / "teacher")
    copied = api.distill(teacher, tmp_path / "a", student="init=copied,layers=2,choose=first", **common)
    new = api.distill(teacher, tmp_path / "b", student="layers=2,hidden=16,heads=2,intermediate=24", **common)
    assert copied.report["stages"][0]["scores"] and copied.report["stages"][0]["best"] is None
    assert not new.report["stages"][0]["scores"]
    # Nor is the start of the next one scored, whose head no stage has trained.
    starts = [min(epoch for epoch, _ in one.report["stages"][1]["scores"]) for one in (copied, new)]
    assert starts == [0, 1]
    other = api.distill(
        teacher, tmp_path / "c", student="family=distilbert", **{**common, "method": "kd", "settings": ()},
        epochs=1,
    )  # fmt: skip
    assert [epoch for epoch, _ in other.report["stages"][0]["scores"]] == [1]  # the head of a DistilBERT is new


def test_a_students_dropout_can_be_off(teacher_folder: Path, tmp_path: Path) -> None:
    """A copy of all layers differs from its teacher by dropout alone."""
    texts = {"train": teacher_folder / "train.csv", "dev": teacher_folder / "dev.csv"}
    teacher, losses = shutil.copytree(teacher_folder / "teacher", tmp_path / "teacher"), {}
    settings = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    (teacher / "config.json").write_text(json.dumps(settings | {"hidden_dropout_prob": 0.5}), encoding="utf-8")
    for dropout in (True, False):
        result = api.distill(
            str(teacher), tmp_path / str(dropout), student="layers=4,choose=first", quiet=True, baseline=False, **texts,
            settings={"stages.*.max_steps": 1, "stages.*.lr": 1e-3, "stages.*.dropout": dropout},
        )  # fmt: skip
        losses[dropout] = result.report["stages"][0]["first_step"]["hidden"]["loss"]
    assert losses[False] == pytest.approx(0.0, abs=1e-8) and losses[True] > 1e-4
