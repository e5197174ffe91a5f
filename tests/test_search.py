"""The search for the smallest knowledge: what is drawn, what is chosen, that it goes on, and that the teacher sleeps meanwhile."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_cli import invoke

from tutelage import api
from tutelage.cli.shown import show
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.progress import Display
from tutelage.recipes.config import from_yaml
from tutelage.report.search import Candidate, Rung, Search, SearchTrial
from tutelage.run.task import TaskRun
from tutelage.run.workspace import Bench, new_accelerator
from tutelage.studies import search
from tutelage.studies.search import BINS, candidates, draw, pareto, picture, schedule
from tutelage.tasks import load as loading
from tutelage.teachers.source import Source
from tutelage.training import checkpoint


class Killed(BaseException):
    pass


def words(root: Path, **more: Any) -> dict[str, Any]:
    """A search of 4 + 2 x 2 short runs."""
    data = {"train": str(root / "train.csv"), "dev": str(root / "dev.csv"), "max_train": 80}
    size = {"student": "init=copied,layers=2", "trials": 4, "seeds": 2, "hidden_epochs": 2, "lr": 3e-4}
    return {"teacher": str(root / "teacher"), **data, **size, "quiet": True, **more}


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Nothing here is about the speed of the students."""
    with pytest.MonkeyPatch.context() as patch:
        times = dict.fromkeys(("1", "32"), speed.Timing(median=1.0, spread=0.0))
        patch.setattr(speed, "latencies", lambda models, *_, **__: (dict.fromkeys(models, times), 1.0))
        patch.setattr(speed, "flops", lambda *_: 1)
        yield


@pytest.fixture(scope="module")
def scene(quick: None, teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A search at one go, and the same one killed twice: before its third run, and within its fifth."""
    folder = tmp_path_factory.mktemp("search")
    whole = api.search_knowledge(out=str(folder / "whole"), **words(teacher_folder))
    carry_out, save, events = search.run, checkpoint.save, []

    def never(source: Source) -> Any:
        raise AssertionError(f"the weights of {source.name} were loaded")

    def run(config: Any, **more: Any) -> dict[str, Any]:
        events.append("run")
        if events.count("run") == 3:
            raise Killed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Source, "model", property(never))
            return carry_out(config, **more)

    def save_and_die(place: Path, state: Any) -> None:
        save(place, state)
        events.append("save")
        if events.count("save") == 9:  # each run saves twice: after either stage
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "run", run)
        patch.setattr(checkpoint, "save", save_and_die)
        for _ in range(2):
            with pytest.raises(Killed):
                api.search_knowledge(out=str(folder / "killed"), **words(teacher_folder))
        api.search_knowledge(out=str(folder / "killed"), **words(teacher_folder))
    return SimpleNamespace(folder=folder, found=whole, root=teacher_folder)


def trials(count: int, seed: int, rung: int = 2) -> list[SearchTrial]:
    """Made up; some are equally large or equally good."""
    generator = random.Random(seed)
    made = []
    for i in range(count):
        score = generator.randrange(80, 100) / 100
        common = {"keep": f"{i + 1}l_1t_1h", "top": 8, "bytes_per_example": 100.0 * generator.randrange(1, 30)}
        made.append(SearchTrial(**common, rung=rung, score=score, scores={0: score, 1: score}, dev_score=0.5))
    return made


def made_up(tried: list[SearchTrial], **more: Any) -> Search:
    rungs = [Rung(epochs={"hidden": epochs}, trials=len(tried), seeds=2) for epochs in (1, 3)]
    front = pareto([trial for trial in tried if trial.rung == 2])
    return Search(
        **{"task": "toy", "kind": "classification", "metric": "accuracy", "teacher": "t", "rungs": rungs, **more},
        trials=tried,
        front=front,
    )


def test_a_search_keeps_what_it_did(scene: SimpleNamespace) -> None:
    found, out = scene.found, scene.folder / "whole"
    assert Search.model_validate_json((out / "search.json").read_text()) == found
    assert [rung.model_dump() for rung in found.rungs] == [
        {"epochs": {"hidden": 1, "prediction": 1}, "trials": 4, "seeds": 1},
        {"epochs": {"hidden": 2, "prediction": 2}, "trials": 2, "seeds": 2},
    ]
    last = [trial for trial in found.trials if trial.rung == 2]
    assert len(found.trials) == 4 and len(last) == 2 and all(list(trial.scores) == [0, 1] for trial in last)
    assert found.front == pareto(last)
    for trial in found.trials:
        epochs = "2+2" if trial.rung == 2 else "1+1"
        for seed, score in trial.scores.items():
            run = out / "runs" / f"{trial.keep}-top{trial.top}-{epochs}-seed{seed}"
            report = json.loads((run / "report.json").read_text())
            assert score == report["stages"][-1]["best"]["score"]
            assert report["data"]["sources"]["validation"] == "10% of train, held out"
            assert (run / "student").exists() == (trial.rung == 2)


def test_a_killed_search_goes_on_to_the_same_result_without_the_teachers_weights(scene: SimpleNamespace) -> None:
    texts = [(scene.folder / name / "search.json").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]


def test_a_finished_search_reads_its_texts_once(scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    read, files = loading.load_files, list[str]()
    monkeypatch.setattr(loading, "load_files", lambda config, *more: files.append(config.train) or read(config, *more))
    assert api.search_knowledge(out=str(scene.folder / "whole"), **words(scene.root)) == scene.found
    assert len(files) == 1


def test_what_was_found_can_be_had_again(scene: SimpleNamespace, tmp_path: Path) -> None:
    """A run of the search is the run that `distill` makes of the same settings, and its store as large as was said."""
    trial = scene.found.front[0]
    amount = [f"hidden.keep={trial.keep}", f"hidden.top={trial.top}"]
    size = api.compact_store(
        str(scene.folder / "whole" / "store"),
        str(tmp_path / "store"),
        method="minimum_knowledge",
        student="init=copied,layers=2,choose=first",
        settings=amount,
        quiet=True,
    )
    assert size.bytes_per_example == trial.bytes_per_example
    given = {k: v for k, v in words(scene.root).items() if k not in ("trials", "seeds", "hidden_epochs", "lr")}
    given["student"] += ",choose=first"  # the start of all amounts
    api.distill(
        out=str(tmp_path / "run"),
        method="minimum_knowledge",
        seed=1,
        baseline=False,
        teacher_store=str(tmp_path / "store"),
        settings=["stages.*.epochs=2", "stages.*.lr=0.0003", *amount],
        **given,
    )
    run = scene.folder / "whole" / "runs" / f"{trial.keep}-top{trial.top}-2+2-seed1"
    weights = [(folder / "student" / "model.safetensors").read_bytes() for folder in (tmp_path / "run", run)]
    assert weights[0] == weights[1]


def test_the_grid_has_each_amount_once_and_none_beyond_what_there_is(scene: SimpleNamespace) -> None:
    config = from_yaml(scene.folder / "whole" / "search.yaml")
    sketch = TaskRun(Bench(new_accelerator(), Display(quiet=True)), config, sketch=True)
    given = candidates(sketch)
    assert sketch.teacher is not None
    longest = int(sketch.teacher.knowledge.encoded.lengths.max())
    assert 10 < longest <= 20
    parts = [candidate.keep.split("_") for candidate in given]
    assert {part[0] for part in parts} == {"1l", "2l", "3l"}  # all are three: two layers and the embeddings
    assert {part[1] for part in parts} == {"1t", "5t", "10t", "allt"}
    assert {candidate.top for candidate in given} == {3, 4}  # of 4 layers; 10 twelfths are 3, too
    # Of 32 neurons a twentieth and a tenth are 2 and 3.
    assert len(given) == len({candidate.name for candidate in given}) == 3 * 4 * 5 * 2


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_is_spread_over_the_logarithm_of_bytes(seed: int) -> None:
    sizes = np.concatenate([np.geomspace(10, 1e5, 100), np.linspace(5e4, 1e5, 400)])  # most are large
    given = [Candidate(keep=f"{i + 1}l_1t_1h", top=8, bytes_per_example=size) for i, size in enumerate(sizes)]
    drawn = draw(given, 24, seed)
    assert len({candidate.keep for candidate in drawn}) == 24
    counts, _ = np.histogram(
        np.log([candidate.bytes_per_example for candidate in drawn]), BINS, (np.log(10), np.log(1e5))
    )
    assert set(counts) == {2}
    assert draw(given, 24, seed) == drawn != draw(given, 24, seed + 1)
    assert draw(given, 10, seed) == drawn[:10]
    assert sorted(candidate.keep for candidate in draw(given, 9999, seed)) == sorted(
        candidate.keep for candidate in given
    )


def test_rungs_are_as_many_as_trials_and_epochs_allow() -> None:
    assert schedule(24, [3, 2]) == [[1, 1], [3, 2]]
    assert schedule(24, [9, 6]) == [[1, 1], [3, 2], [9, 6]]
    assert schedule(8, [9, 6]) == [[3, 2], [9, 6]]
    assert schedule(2, [9, 6]) == [[9, 6]]
    assert schedule(24, [1, 1]) == [[1, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_beats(seed: int) -> None:
    tried = trials(25, seed)
    front = pareto(tried)
    corners = {(trial.bytes_per_example, trial.score) for trial in front}
    for trial in tried:
        beaten = any(
            other.bytes_per_example <= trial.bytes_per_example
            and other.score >= trial.score
            and (other.bytes_per_example, other.score) != (trial.bytes_per_example, trial.score)
            for other in tried
        )
        assert beaten != ((trial.bytes_per_example, trial.score) in corners)
    assert len(front) == len(corners) and front == sorted(front, key=lambda trial: trial.bytes_per_example)


def test_a_score_of_a_constant_answer_is_not_called_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    tried = trials(3, 3)
    show("search_knowledge", made_up(tried, under=5000.0), as_json=False)
    assert "scored 0" not in capsys.readouterr().out
    same = tried[0].model_copy(update={"bytes_per_example": 1.0, "score": 0.4, "scores": {0: 0.0, 1: 0.8}})
    show("search_knowledge", made_up([same, *tried], under=5000.0), as_json=False)
    told = "note: On the validation split the same answer to all texts is scored 0, whatever its metric."
    assert told in capsys.readouterr().out


def test_the_best_under_a_budget() -> None:
    tried = trials(25, 3)
    early = SearchTrial(
        keep="9l_1t_1h", top=8, bytes_per_example=40.5, rung=1, score=1.0, scores={0: 1.0}, dev_score=1.0
    )
    found = made_up([early, *tried])
    for budget in (100, 500, 1234.5, 10**6):
        fitting = [trial for trial in tried if trial.bytes_per_example <= budget]
        assert found.best_under(budget).score == max((trial.score for trial in fitting), default=1.0)
    assert found.best_under(41) == early  # which shorter training had ruled out: nothing else is so small
    assert found.best_under(40) is None


def test_a_search_with_nothing_under_its_budget_ends_with_exit_code_1(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is finished, and no mistake of the user: the table is shown, JSON is whole."""
    tried = sorted(trials(9, 3), key=lambda trial: trial.bytes_per_example)
    monkeypatch.setattr(search, "search_knowledge", lambda *_, under, **how: made_up(tried, under=under))
    words = ["search-knowledge", "--teacher", teacher_folder / "teacher", "--train", teacher_folder / "train.csv"]
    words += ["--out", tmp_path / "out", "--under"]
    code, shown, error = invoke(*words, "1")
    smallest = f"at most 1 bytes per example: the smallest, {tried[0].name}, has "
    assert code == 1 and not error and smallest in shown and tried[0].name in shown.partition("No conf")[0]
    code, out, _ = invoke(*words, "1", "--json")
    assert code == 1 and json.loads(out)["best_under"] is None
    code, out, _ = invoke(*words, "1000000", "--json")
    assert code == 0 and json.loads(out)["best_under"]
    assert invoke(*words[:-1])[0] == 0


def test_the_picture_is_whole_and_what_it_says_is_escaped() -> None:
    tried = trials(9, 1) + trials(5, 2, rung=1)
    tried[0].keep = "<script>alert(1)</script>"
    text = picture(made_up(tried, task='<b>"toy" & co</b>', metric="<i>"))
    tree = ElementTree.fromstring(text)  # well-formed: nothing of it became markup
    names = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert names == {"svg", "title", "desc", "style", "text", "line", "polyline", "circle"}
    shown = [element.text for element in tree.iter() if "name" in (element.get("class") or "").split()]
    assert sorted(map(str, shown)) == sorted(trial.name for trial in tried if trial.rung == 2)
    assert "href" not in text and text.count("http") == 1  # the name of the SVG namespace


def test_the_picture_of_one_configuration() -> None:
    ElementTree.fromstring(picture(made_up(trials(1, 1))))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trials": 0}, "trials 0 is no number of trials; give 1 to 10,000"),
        ({"seeds": 1001}, "seeds 1001 is no number of seeds; give 1 to 1,000"),
        ({"holdout": 0.0}, r"data\.holdout=0 leaves no validation split to compare configurations on"),
        ({"settings": ["prediction.select=last"]}, "stage 'prediction' has select=last"),
        ({"student": "init=copied,layers=9"}, "9 layers cannot be copied"),
        ({"hidden_epochs": 0}, "--hidden-epochs 0 is too few"),
    ],
)
def test_mistakes_end_before_anything_is_written(more: Any, message: str, teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=message) as error:
        api.search_knowledge(out=str(tmp_path / "out"), **words(teacher_folder, **more))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_weak_teacher_is_found_before_its_knowledge_is_stored(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line with a remedy that works."""

    def written(*given: Any, **how: Any) -> None:
        raise Killed

    monkeypatch.setattr(search.stores, "write", written)
    given = words(teacher_folder, teacher=str(teacher_folder / "random"))
    with pytest.raises(
        TutelageError, match=r"no better than a constant answer .*, or pass settings allow_weak_teacher=true"
    ):
        api.search_knowledge(out=str(tmp_path / "out"), **given)
    assert not list(tmp_path.iterdir())
    given["settings"] = [*given.get("settings", []), "allow_weak_teacher=true"]
    with pytest.raises(Killed):
        api.search_knowledge(out=str(tmp_path / "out"), **given)


def test_a_folder_of_something_else_is_left_alone(scene: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(TutelageError, match="is not empty and holds no search"):
        api.search_knowledge(out=str(tmp_path), **words(scene.root))
    (tmp_path / "thesis.txt").unlink()
    with pytest.raises(TutelageError, match="holds a search with other settings"):
        api.search_knowledge(out=str(scene.folder / "whole"), **words(scene.root, lr=1e-5))
    shutil.copytree(scene.folder / "whole" / "store", tmp_path / "store")
    with pytest.raises(TutelageError, match="has hidden states in float16, not float32"):
        api.search_knowledge(out=str(tmp_path), **words(scene.root, store_dtype="float32"))
    with pytest.raises(TutelageError, match="store"):  # it does not know the other texts
        api.search_knowledge(out=str(tmp_path), **words(scene.root, max_train=200))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
