"""Augmented texts in whole runs: which rows are learnt, what is inherited, what the teacher's change of mind leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from transformers import BertForMaskedLM

from tutelage import api
from tutelage.cli.shown import show
from tutelage.data.config import DataConfig
from tutelage.data.corpus.building import build
from tutelage.errors import TutelageError
from tutelage.methods.minimum_knowledge import minimum_knowledge, minimum_knowledge_reference
from tutelage.methods.tinybert import tinybert, tinybert_reference
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig, from_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import Bench, new_accelerator
from tutelage.students.specs import Fresh
from tutelage.studies import ablation

STUDENT = Fresh(layers=2, hidden=16, heads=4, intermediate=24)


@pytest.fixture(scope="module")
def words(tmp_path_factory, teacher_folder: Path, tokenizer) -> Path:
    """Candidates for the toy task, by a random model of masked words."""
    root = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    BertForMaskedLM(tiny_model().config).save_pretrained(root / "proposer")
    tokenizer.save_pretrained(root / "proposer")
    about = api.augment(
        str(root / "proposer"), str(root / "words"), quiet=True, filtered=False, train=str(teacher_folder / "train.csv")
    )
    assert about.k == 15
    with pytest.raises(TutelageError, match="already exists"):
        api.augment(str(root / "proposer"), str(root / "words"), train=str(teacher_folder / "train.csv"))
    return root / "words"


def small(recipe: Recipe, variants: int = 3, epochs: int = 2) -> Recipe:
    recipe = recipe.part("task")
    stages = [stage.model_copy(update={"epochs": epochs, "lr": 3e-3}) for stage in recipe.stages]
    how = recipe.augmentation.model_copy(update={"variants": variants})
    return recipe.model_copy(update={"student": STUDENT, "stages": stages, "augmentation": how})


def config_for(root: Path, out: Path, recipe: Recipe, words: Path | None, **data) -> RunConfig:
    given = DataConfig(
        train=str(root / "train.csv"),
        dev=str(root / "dev.csv"),
        candidates=None if words is None else str(words),
        **data,
    )
    return RunConfig(recipe=recipe, teacher=str(root / "teacher"), data=given, out=str(out), baseline=False)


def prepared(config: RunConfig):
    return TaskRun(Bench(new_accelerator(), Display(quiet=True)), config)


def test_variants_of_what_is_held_out_are_not_learnt(teacher_folder: Path, words: Path, tmp_path: Path) -> None:
    setup = prepared(config_for(teacher_folder, tmp_path / "run", small(tinybert()), words))
    train, augmented = (set(setup.texts.parts[part].examples.ids) for part in ("train", "augmented"))
    assert train < augmented
    new = augmented - train
    # The texts have made-up words with numbers, which stay; the vocabulary leaves some variants equal.
    assert len(new) > len(train)
    assert {name.partition("~")[0] for name in new} <= train
    held = set(setup.texts.selection.examples.ids)
    assert held and not held & {name.partition("~")[0] for name in augmented}
    labels = dict(
        zip(setup.texts.parts["augmented"].examples.ids, setup.texts.parts["augmented"].examples.labels, strict=True)
    )
    assert all(labels[name] == labels[name.partition("~")[0]] for name in new)
    again = prepared(config_for(teacher_folder, tmp_path / "run", small(tinybert()), words))
    assert list(again.texts.parts["augmented"].examples.texts) == list(setup.texts.parts["augmented"].examples.texts)


def test_stages_read_what_they_name(teacher_folder: Path, words: Path, tmp_path: Path) -> None:
    report = run(config_for(teacher_folder, tmp_path / "run", small(tinybert("stsb"), epochs=1), words), quiet=True)
    first, second = report["stages"]
    assert first["steps"] > 2 * second["steps"]  # the last stage of STS-B is on the original texts
    assert report["data"]["augmented"] > report["data"]["train"]
    without = run(config_for(teacher_folder, tmp_path / "without", small(tinybert(), epochs=1), None), quiet=True)
    assert without["data"]["augmented"] == 0
    assert any("no candidates were given" in warning for warning in without["warnings"])
    none = run(
        config_for(teacher_folder, tmp_path / "none", small(tinybert(ablation="no_da"), epochs=1), None), quiet=True
    )
    assert not any("candidates" in warning for warning in none["warnings"])
    with pytest.raises(TutelageError, match="no stage on augmented texts"):
        run(config_for(teacher_folder, tmp_path / "never", small(tinybert(ablation="no_da")), words), quiet=True)


def test_flipped_variants_are_left_out(teacher_folder: Path, words: Path, tmp_path: Path) -> None:
    config = config_for(teacher_folder, tmp_path / "run", small(tinybert()), words)
    whole = prepared(config)
    kept = prepared(config.model_copy(update={"data": config.data.model_copy(update={"drop_flipped": True})}))
    names = kept.texts.parts["augmented"].examples.ids
    assert len(names) < len(whole.texts.parts["augmented"].examples.ids)
    logits = kept.teacher.on_train("augmented")
    assert len(logits) == len(names)
    predicted = dict(zip(names, logits.argmax(1).tolist(), strict=True))
    assert all(predicted[name] == predicted[name.partition("~")[0]] for name in names)
    assert set(kept.texts.parts["train"].examples.ids) <= set(names)


def test_a_store_knows_variants_by_their_names(
    teacher_folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    recipe = small(tinybert(ablation="no_attn"), variants=1)  # attention is read from a running teacher only
    live = run(config_for(teacher_folder, tmp_path / "live", recipe, words), quiet=True)
    config = config_for(teacher_folder, tmp_path / "stored", recipe, words)
    stored = run(config.model_copy(update={"teacher_store": "auto", "store_dtype": "float32"}), quiet=True)
    assert stored["store"]["examples"] > stored["data"]["train"] + stored["data"]["augmented"]
    for one, other in zip(live["stages"], stored["stages"], strict=True):
        for term, values in one["losses"].items():
            assert [v for _, v in other["losses"][term]] == pytest.approx([v for _, v in values], rel=1e-3), term


def test_every_ablation_leaves_out_what_its_row_says() -> None:
    def kinds(name) -> list[list[str]]:
        return [[term.kind for term in stage.objective] for stage in tinybert(ablation=name).stages]

    layers = ["embeddings", "hidden", "attention_scores"]
    assert kinds(None) == [layers, layers, ["soft_labels"]]
    assert kinds("no_gd") == [layers, ["soft_labels"]]
    assert kinds("no_td") == [layers, ["hard_labels"]]
    assert kinds("no_pred") == [layers, layers, ["hard_labels"]]
    assert kinds("no_trm") == [["embeddings"], ["embeddings"], ["soft_labels"]]
    assert kinds("no_attn") == [layers[:2], layers[:2], ["soft_labels"]]
    assert kinds("no_hidn") == [[layers[0], layers[2]]] * 2 + [["soft_labels"]]
    assert kinds("no_embd") == [layers[1:], layers[1:], ["soft_labels"]]

    def texts(name) -> list[str]:
        return [stage.data for stage in tinybert("cola", ablation=name).part("task").stages]

    assert texts(None) == texts("no_attn") == ["augmented", "augmented"]
    assert texts("no_td") == ["augmented"] and texts("no_da") == ["train", "train"]
    assert texts("no_pred") == ["augmented", "train"]
    cola = tinybert("CoLA")
    assert (cola.stages[1].epochs, cola.augmentation.variants, cola.longest) == (50, 20, 64)
    assert [tinybert_reference(task).augmentation.variants for task in ("CoLA", "mnli", "sst2")] == [30, 10, 20]
    assert tinybert("mnli").stages[1].epochs == 10 and tinybert().stages[1].epochs == 20
    top = tinybert(mapping="top")
    assert all(term.layers == "top" for stage in top.stages[:2] for term in stage.objective[1:])


def test_minimum_knowledge_has_numbers_for_tasks() -> None:
    for make in (minimum_knowledge, minimum_knowledge_reference):
        found = {name: make(task=name) for name in ("CoLA", "sst-2", "mrpc", "mnli", "toy")}
        epochs = {name: recipe.stages[0].epochs for name, recipe in found.items()}
        assert epochs == {"CoLA": 30, "sst-2": 10, "mrpc": 20, "mnli": 5, "toy": 10}
        assert [found[name].longest for name in ("CoLA", "sst-2", "mrpc", "toy")] == [64, 64, 128, None]
    assert minimum_knowledge(task="cola", hidden_epochs=3).stages[0].epochs == 3


def test_ablate_runs_the_rows_and_goes_on(
    teacher_folder: Path, words: Path, tmp_path: Path, tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(["good", "bad", *(f"word{i}" for i in range(20))], 8)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(lines[i : i + 3]) for i in range(0, 60, 3)))
    build([str(tmp_path / "text.txt")], tmp_path / "corpus", tokenizer, split="lines")
    tiny_model().base_model.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    given = {
        "teacher": str(teacher_folder / "teacher"),
        "general_teacher": str(tmp_path / "body"),
        "corpus": str(tmp_path / "corpus"),
        "student": "layers=2,hidden=16,heads=4,intermediate=24",
        "train": str(teacher_folder / "train.csv"),
        "max_train": 120,
        "dev": str(teacher_folder / "dev.csv"),
        "candidates": str(words),
        "settings": [
            "stages.general.max_steps=3",
            "stages.general.data.length=24",
            "stages.*.epochs=1",
            "stages.*.lr=0.003",
            "stages.intermediate.max_steps=4",
            "augmentation.variants=1",
        ],
        "quiet": True,
    }
    arms = ["full", "no_gd", "no_td", "no_attn"]
    found = api.ablate("tinybert", str(tmp_path / "out"), rows=arms, seeds=2, **given)
    (task,) = found.tasks
    assert list(found.rows) == arms and task.metric == "accuracy" and task.teacher_score > 0.9
    assert found.passed and all(sorted(row.scores) == [0, 1] for row in found.rows.values())
    assert sorted(place.name for place in (tmp_path / "out" / "general").iterdir()) == ["full", "no_attn"]
    ours, full = ([*found.rows[name].scores.values()] for name in ("no_td", "full"))
    gap = found.against_full("no_td")
    assert gap.examples.value == pytest.approx(np.mean(np.subtract(ours, full))) and gap.half is not None
    assert found.against_full("full") is None and len(found.contrasts) == 3
    assert ablation.Ablation.model_validate_json((tmp_path / "out" / "compare.json").read_text()) == found
    cells = {cell.method: from_yaml(tmp_path / "out" / cell.folder / "config.yaml") for cell in found.cells}
    assert {row: one.recipe.student.init for row, one in cells.items()} == {
        "full": "checkpoint", "no_gd": "fresh", "no_td": "checkpoint", "no_attn": "checkpoint",
    }  # fmt: skip
    assert Path(cells["no_attn"].recipe.student.name).name == "no_attn"
    assert [stage.epochs for stage in cells["no_td"].recipe.stages] == [1] and cells["no_td"].data.candidates
    show("ablate", found, as_json=False)
    shown = capsys.readouterr().out
    assert "Procedures" in shown and "Objectives" in shown and "Mappings" in shown and "against full" in shown
    reports = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("report.json")}
    assert api.ablate("tinybert", str(tmp_path / "out"), rows=arms, seeds=2, **given) == found
    assert {path: path.stat().st_mtime_ns for path in reports} == reports  # nothing was run again
    # With other settings it is another run: no table has both.
    given["settings"][2] = "stages.*.epochs=2"
    again = api.ablate("tinybert", str(tmp_path / "out"), rows=["no_gd"], **{**given, "seeds": 1})
    assert list(again.rows) == ["no_gd"] and again.cells[0].key not in {cell.key for cell in found.cells}


def test_ablate_refuses_mistakes_before_the_general_stage(
    teacher_folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line; of a weak teacher, too."""
    monkeypatch.setattr(ablation, "run", lambda *given, **how: pytest.fail("a run has begun"))
    given = {
        "teacher": str(teacher_folder / "random"),
        "general_teacher": "none",
        "corpus": "none",
        "student": "layers=2,hidden=16,heads=4,intermediate=24",
        "train": str(teacher_folder / "train.csv"),
        "dev": str(teacher_folder / "dev.csv"),
        "candidates": str(words),
        "quiet": True,
    }
    for more, line in (
        ({"rows": ["no_x"]}, "there is no row 'no_x'"),
        ({"candidates": None}, "give candidates FOLDER"),
        ({"seeds": 0}, "seeds: give at least 1 seed, not 0"),
        ({"seeds": 10**9}, "seeds: give at most 1,000 seeds"),
        ({"settings": ["stages.middle.lr=1"]}, "no row has this stage; there are general, intermediate, prediction"),
        ({"settings": ["stages.general.lrr=1"]}, "there is no such setting"),
        ({}, "random' scores accuracy .* no better than a constant answer .*settings allow_weak_teacher=true"),
    ):
        with pytest.raises(TutelageError, match=line) as error:
            api.ablate("tinybert", str(tmp_path / "out"), **{**given, **more})
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
