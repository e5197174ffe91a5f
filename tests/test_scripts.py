"""The experiments and benchmarks: their pages are made of the committed results, and their recipes can be built."""

from __future__ import annotations

import json
import runpy
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import tiny_config

from tutelage.data.config import DataConfig
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.students.bilstm import word_tokenizer
from tutelage.studies.script import PLACES

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path
    for folder in ("experiments", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if "\nSCRIPT = " in path.read_text()
)
"""The others are parts of these."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Carries out a script as its command does; returns what it defines."""

    def run(path: Path, *words: str) -> dict[str, Any]:
        # Either folder has a ``common`` of its own, and benchmarks import each other.
        for name in {"common", *(other.stem for other in SCRIPTS)}:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        return runpy.run_path(str(path), run_name="__main__" if words else path.stem)

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_pages_are_made_of_the_results(path: Path, script, monkeypatch, tmp_path: Path) -> None:
    """Of all results of a script: those of its usual name, and ``NAME_MORE.json`` where no other script has that name."""
    usual = script(path)["SCRIPT"].get_default("out").name
    names = {file.name for file in (ROOT / "results").glob(f"{Path(usual).stem}*.json")}
    names -= {"sharing_speed.json", "wid_speed.json"} - {usual}
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    for name in names:
        script(path, "--finished", "--out", f"results/{name}")
    made = list((tmp_path / "docs" / "results").glob("*"))
    assert len(made) >= len(names)
    for file in made:
        assert file.read_text() == (ROOT / "docs" / "results" / file.name).read_text(), file.name


def runs(arms: Iterable[str], **more: Any) -> list[dict[str, Any]]:
    """Made-up runs of arms on a task: each is 0.1 better than the one before, with seed 1 half of that."""
    served = {"scores": {"int8": {"accuracy": 0.5}}, "bytes": {"int8": 23e6}, "ms": {"pytorch": 25.0, "int8": 10.0}}
    common = {
        "parameters": 2_000_000,
        "speedup": 2.5,
        "served": served,
        "suspects": 3,
        "suspects_right": 0.5,
        "texts": 100,
    }
    common |= {"teacher": {"spearman": 0.9, "parameters": 10**8}, "baseline": {"spearman": 0.25}}
    return [
        {
            **common,
            "arm": arm,
            "seed": seed,
            "scores": dict.fromkeys(("accuracy", "spearman"), (2 - seed) * 0.05 * n),
            **more,
        }
        for n, arm in enumerate(arms)
        for seed in (0, 1)
    ]


def made_up(script: SimpleNamespace) -> dict[str, Any]:
    """Results in the form of a script that has none yet."""
    scores = {"accuracy": 0.75}
    given = {name: value for name, value in vars(script.SCRIPT.parse_args([])).items() if name not in PLACES}
    return {
        "defaults": lambda: {
            "teachers": {"pairs": {"scores": scores}},
            "runs": [run for name, arms in script.GROUPS.items() for run in runs(arms, task="pairs", group=name)],
        },
        "embedding": lambda: {
            "references": {name: {"spearman": 0.5} for name in script.REFERENCES},
            "runs": runs(script.ARMS),
        },
        "mpnet_teacher": lambda: {
            "teachers": {"rte": {"scores": scores, "served": runs(["teacher"])[0]["served"]}},
            "runs": runs(["cut-finetune", "cut-kd"], task="rte"),
        },
        "predictions_as_teacher": lambda: {
            "annotators": {noise: {"accuracy": 0.75} for noise in "013"},
            "runs": [run for noise in "013" for run in runs([*script.FORMS, *script.MORE], noise=noise)],
        },
    }[Path(script.__file__).stem]() | {"settings": given}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("defaults", "| labels | 0.0000 ± 0.0000 | 0.0000 |"),
        ("embedding", "reach Spearman 0.150"),
        (
            "mpnet_teacher",
            "| cut-kd | 2 | 0.0750 ± 0.3177 | +0.0750 ± 0.3177 | 0.5000 ± 0.0000 | 23.0 | 10.00 | 2.5x |",
        ),
        ("predictions_as_teacher", "50% of them had a wrong label"),
    ],
)
def test_a_script_without_results_makes_a_page_of_made_up_ones(name: str, words: str, script, tmp_path: Path) -> None:
    path = ROOT / "experiments" / f"{name}.py"
    results = made_up(SimpleNamespace(**script(path)))
    (tmp_path / "made_up.json").write_text(json.dumps(results))
    script(path, "--finished", "--out", str(tmp_path / "made_up.json"))
    assert words in " ".join((tmp_path / "made_up.md").read_text().split())


def by_arms(names: str = "ARMS") -> Callable[[SimpleNamespace, Namespace], list[Recipe]]:
    """Each arm has a recipe of its name and the options."""
    return lambda script, options: [script.recipe_for(arm, options) for arm in getattr(script, names)]


def autoskdbert(script: SimpleNamespace, options: Namespace) -> list[Recipe]:
    searched = {"search": {"next": [0.25, 0.0, 0.75]}}
    done = [{"arm": arm, "selection": 0.5, "found": searched} for arm in ("single", "phase1", "corrected")]
    return [script.recipe_for(arm, done, 1e-4, options) for arm in script.ARMS]


def wid(script: SimpleNamespace, options: Namespace) -> list[Recipe]:
    options.work.mkdir()
    for kind, family in (("words", "bert"), ("next_words", "gpt2")):
        tiny_config(family).save_pretrained(options.work / f"{kind}-new")
        word_tokenizer(["a text"], 10, 48).save_pretrained(options.work / f"{kind}-new")
    arms = [(arm, kind) for arm in (*script.ARMS, "teacher") for kind in script.KINDS]
    on_text = [script.config_for(arm, kind, options.work, 1e-3, options).recipe for arm, kind in arms]
    return on_text + [script.task_recipe(arm, 192, 1e-4, 4) for arm in (*script.TASK_ARMS, "teacher")]


def tinybert(script: SimpleNamespace, options: Namespace) -> list[Recipe]:
    student, data = script.parse(options.student), DataConfig(train="texts.csv")
    script.plain_recipe.__globals__["load_data"] = lambda config: SimpleNamespace(train=SimpleNamespace(pairs=None))
    rows = [script.recipe_of(arm, "sst2", student) for arm in options.arms.split(",") if arm != "plain"]
    general = [recipe.part("general") for recipe in rows if recipe.stages[0].on_corpus]
    return [script.plain_recipe(options, student, data, "sst2"), *general, *(recipe.part("task") for recipe in rows)]


def front(script: SimpleNamespace, options: Namespace) -> list[Recipe]:
    points = [(point, teacher) for point in options.points.split(",") for teacher in options.teachers.split(",")]
    students = [script.student_of(point, teacher, options.models) for point, teacher in points]
    return [script.compact().model_copy(update={"student": student}) for student in students if student is not None]


RECIPES: dict[str, Callable[[SimpleNamespace, Namespace], list[Recipe]]] = {
    "answers": by_arms("METHODS_TRIED"),
    "autoskdbert": autoskdbert,
    "bilstm": by_arms(),
    "defaults": lambda script, options: [recipe for group in script.GROUPS.values() for recipe in group.values()],
    "embedding": by_arms(),
    "front": front,
    "glue": lambda script, options: [script.recipe_for(name, 1e-4, options) for name in script.METHODS_TRIED],
    "knowledge_of_mpnet": lambda script, options: [
        script.recipe_for(student, arm, options) for student in script.STUDENTS for arm in script.ARMS
    ],
    "learnt_texts": lambda script, options: [
        make(script.LOSSES[name], 4) for make in (script.arm, script.made) for name in script.LOSSES
    ],
    "minimum_knowledge": lambda script, options: [
        script.recipe_for(term, name, 0, options) for name, term in script.arms().items()
    ],
    "mpnet_teacher": by_arms(),
    "pea_kd": lambda script, options: [script.recipe_for(arm, n, options) for arm in script.ARMS for n in (1, 2)],
    "predictions_as_teacher": lambda script, options: [script.recipe_for(options)],
    "tinybert": tinybert,
    "wid": wid,
}
"""All recipes that an experiment trains, by its name."""
NONE = {"cascade", "cutting", "int8_scales", "int8_training", "ledger", "methods", "planted_teams", "unseen"}
"""Experiments without recipes of their own."""


def test_every_experiment_has_its_recipes_here() -> None:
    assert {path.stem for path in SCRIPTS if path.parent.name == "experiments"} == {*RECIPES, *NONE}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_of_an_experiment_can_be_built(name: str, script, tmp_path: Path) -> None:
    """Built with the default options, and repeated from YAML."""
    defined = SimpleNamespace(**script(ROOT / "experiments" / f"{name}.py"))
    options = defined.SCRIPT.parse_args(["--work", str(tmp_path / "work")])
    options.models = Path("models")
    recipes = RECIPES[name](defined, options)
    assert recipes
    for recipe in recipes:
        data = {"corpus": "corpus"} if recipe.on_corpus else {"data": DataConfig(task="sst2", data_dir="glue")}
        config = RunConfig(recipe=recipe, teacher="teacher" if recipe.needs_teacher else None, out="out", **data)
        (tmp_path / "run.yaml").write_text(to_yaml(config))
        assert from_yaml(tmp_path / "run.yaml") == config


def test_the_ledger_is_that_of_the_committed_results(script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    defined = SimpleNamespace(**script(ROOT / "experiments" / "ledger.py"))
    (found,) = defined.measure(Namespace())
    assert found == json.loads((ROOT / "results" / "ledger.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({"a": [0.1, 0.11, 0.12], "b": [0.2, 0.21, 0.22]}, "held"),
        ({"a": [0.1, 0.11, 0.12], "b": [0.2, -0.2, 0.1]}, "held in part"),
        ({"a": [0.1, 0.11, 0.12], "b": [-0.2, -0.21, -0.22]}, "held and failed"),
        ({"a": [0.2, -0.2, 0.1], "b": [-0.2, -0.21, -0.22]}, "did not hold"),
        ({"a": [0.2, -0.2, 0.1], "b": []}, "not decidable here"),
        ({"a": [], "b": []}, "not measured"),
    ],
)
def test_a_verdict_follows_from_the_intervals(differences: dict[str, list[float]], said: str, script) -> None:
    assert SimpleNamespace(**script(ROOT / "experiments" / "ledger.py")).verdict(differences) == said


def test_the_parts_of_the_growth_benchmark_run(script, tmp_path: Path) -> None:
    """Those that take no training: a part calls functions of the package by their own signatures."""
    growth = SimpleNamespace(**script(ROOT / "benchmarks" / "growth.py"))
    short = {name: prepare for name, (prepare, _, _) in growth.PARTS.items() if name not in growth.LONG}
    assert len(short) > 5
    for number, prepare in enumerate(short.values()):
        (tmp_path / str(number)).mkdir()
        work = prepare(growth.Size(64), tmp_path / str(number))
        work.call()
        assert work.amount > 0


def test_the_store_benchmark_runs(script, tmp_path: Path) -> None:
    store = SimpleNamespace(**script(ROOT / "benchmarks" / "store.py"))
    found = store.measure_size(64, tmp_path / "store", store.block())
    assert found["records"] == 64 and found["bytes"] == 64 * store.RECORD
