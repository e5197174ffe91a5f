"""Layers of several teachers in one step: the losses written out, who is compared, stored teachers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import VOCABULARY, assert_alike, examples, tiny_model
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertTokenizerFast

from tutelage import anatomy, api
from tutelage.data.batches import step_batches
from tutelage.data.config import DataConfig
from tutelage.data.examples import encode
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Tap
from tutelage.mechanisms.team.settings import Team
from tutelage.mechanisms.team.teacher import TeamTeacher
from tutelage.mechanisms.team.weights import Weights
from tutelage.methods.autoskdbert import mt_bert
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.plan import mapping_lines
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.students.specs import BiLSTM
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import KnownLogits, LiveTeacher, predict


def squares(ours: Tensor, theirs: Tensor, mask: Tensor) -> float:
    """The mean square over real tokens and neurons, one number at a time."""
    total = 0.0
    for row in range(mask.shape[0]):
        for token in range(int(mask[row].sum())):
            for a, b in zip(ours[row, token].tolist(), theirs[row, token].tolist(), strict=True):
                total += (a - b) ** 2
    return total / (int(mask.sum()) * ours.shape[-1])


@pytest.mark.parametrize("combine", ["discounted", "average"])
def test_the_loss_is_that_of_the_paper(combine: str, tokenizer) -> None:
    """``sum_i sum_j MSE(h_j, W_ij h_i,map(j)) + sum_i CE_i / (1 + CE(y, y_i)) + CE``, of three teachers that differ in depth and
    width; one has the weight 0. As a mean, each counts as much as its weight."""
    encoded, accelerator, t = encode(examples(6, 1), tokenizer, 32), Accelerator(cpu=True), 2.0
    student = tiny_model(layers=2, hidden=16, heads=2)
    team = [tiny_model(seed=1), tiny_model(seed=2, layers=2), tiny_model(seed=3, layers=3, hidden=24)]
    shapes = {number: anatomy.shape_of(model.config) for number, model in enumerate(team)}
    ours = anatomy.shape_of(student.config)
    objective = Objective(mt_bert(t).stages[0].objective, KINDS["classification"], ours, shapes[0], several=shapes)
    assert sorted(objective.projections) == ["teacher1", "teacher2", "teacher3"]
    plans = objective.plan.members
    layers = {n: LiveTeacher(team[n], plans[n].teacher_needs, None, accelerator) for n in shapes}
    known = [KnownLogits(predict(model, encoded, accelerator), encoded.logit_rows) for model in team]
    how = Team(combine=combine)
    teacher = TeamTeacher(known, how, Weights([3, 0, 1]), KINDS["classification"], (0, 0), t, layers)
    (batch,) = step_batches(encoded, np.arange(6), 0, 1, 10**6)
    tap = Tap(student, objective.plan.student_needs)
    with torch.no_grad():
        found = objective(tap(batch.inputs), teacher.signals(batch), batch)
        said = student(**batch.inputs, output_hidden_states=True)
    tap.close()
    teacher.close()

    wanted, factors = 0.0, {0: 1.5, 2: 0.5} if combine == "discounted" else {0: 0.75, 2: 0.25}
    soft, shares = 0.0, torch.zeros(6, 2)
    for number, pairs in {0: ((1, 2), (2, 4)), 2: ((1, 2), (2, 3))}.items():
        with torch.no_grad():
            theirs = team[number](**batch.inputs, output_hidden_states=True)
        for s, layer in pairs:
            matrix = objective.projections[f"teacher{number + 1}"][f"{s}_onto_student"].weight.detach()
            assert matrix.shape == (16, shapes[number].hidden)
            mapped = theirs.hidden_states[layer] @ matrix.T
            wanted += factors[number] * squares(said.hidden_states[s], mapped, batch.mask)
        for row in range(6):
            p, q = ((x[row] / t).log_softmax(-1) for x in (theirs.logits, said.logits))
            wrong = -float(theirs.logits[row].log_softmax(-1)[batch.labels[row]]) if combine == "discounted" else 0
            soft += factors[number] * float(-(p.exp() * q).sum()) / (1 + wrong) / 6
            shares[row] += factors[number] * p.exp() / (1 + wrong)
    assert float(found["hidden"]) == pytest.approx(wanted, rel=1e-5)
    mean = shares / shares.sum(-1, keepdim=True)  # its entropy does not depend on the student, and is left out
    entropy = float((shares.sum(-1) * -(mean * mean.log()).sum(-1)).mean())
    assert float(found["soft_labels"]) == pytest.approx(soft - entropy, abs=1e-6)
    assert float(found["hard_labels"]) == pytest.approx(
        float(torch.nn.functional.cross_entropy(said.logits, batch.labels)), rel=1e-6
    )
    assert {name for name, p in objective.projections.named_parameters() if p.requires_grad} == {
        f"teacher{n}.{s}_onto_student.weight" for n in (1, 2, 3) for s in (1, 2)
    }


def test_maps_onto_what_is_learnt_are_not_compared_relatively() -> None:
    with pytest.raises(ValidationError, match="set onto=teacher"):
        Hidden(normalize="teacher", onto="student")


def distil(root: Path, out: Path, team: list[str], recipe: Recipe, *settings: str, **more):
    return api.distill(
        None,
        str(out),
        team=team,
        **{"method": recipe, "student": "layers=2,choose=first", "allow_weak_teacher": True, **more},
        baseline=False,
        settings=["stages.distill.max_steps=4", "stages.distill.epochs=1", *settings],
        train=str(root / "train.csv"),
        dev=str(root / "dev.csv"),
        quiet=True,
    ).report


def test_layers_of_those_are_compared_that_read_the_students_tokens(teacher_folder: Path, tmp_path: Path) -> None:
    other = BertTokenizerFast(vocab={word: i for i, word in enumerate([*VOCABULARY, "more"])}, model_max_length=32)
    stranger, short = tmp_path / "stranger", tmp_path / "short"
    tiny_model(vocab_size=len(other)).save_pretrained(stranger)
    other.save_pretrained(stranger)
    tiny_model("distilbert", layers=3, hidden=24).save_pretrained(short)  # reads the same tokens, without types
    BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}).save_pretrained(short)
    teachers = [str(teacher_folder / "teacher"), str(stranger), str(short)]
    report = distil(teacher_folder, tmp_path / "run", teachers, mt_bert())
    assert [(entry["teacher"], entry["pairs"]) for entry in report["mapping"]] == [
        (1, [[1, 2], [2, 4]]),
        (3, [[1, 2], [2, 3]]),
    ]
    assert f"stage distill compares no layers of {str(stranger)!r}: it has another tokenizer" in report["warnings"]
    maps = load_file(tmp_path / "run" / "projections.safetensors")
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        **{f"distill.teacher1.{s}_onto_student.weight": (32, 32) for s in (1, 2)},
        **{f"distill.teacher3.{s}_onto_student.weight": (32, 24) for s in (1, 2)},
    }
    recipe = mt_bert()
    sketched = {"teachers": tuple(teachers), "teacher": teachers[0], "out": str(tmp_path / "never")}
    data = DataConfig(train=str(teacher_folder / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    words = BiLSTM(hidden=16, intermediate=16, embedding=16)
    config = RunConfig(recipe=recipe.model_copy(update={"student": words}), data=data, **sketched)
    with bench(quiet=True) as place:
        run = TaskRun(place, config, sketch=True)
        both = TaskRun(place, config.model_copy(update={"recipe": recipe}), sketch=True)
    assert "hidden[1, 3, 4] from teacher 1, hidden[1, 2, 3] from teacher 3" in both.plans[0].line()
    assert [line for line in mapping_lines(both.objectives.current[0]) if "hidden" in line] == [
        "  hidden states of teacher 1",
        "  hidden states of teacher 3",
    ]
    assert "stage distill leaves out hidden: none of the teachers reads the student's tokens" in run.warnings
    assert [term.kind for term in run.objectives.current[0].terms] == ["soft_labels", "hard_labels"]
    objective = [Hidden(), HardLabels()]
    stage = recipe.stages[0].model_copy(update={"objective": objective, "mechanisms": [Team(combine="average")]})
    strict = recipe.model_copy(update={"stages": [stage]})
    with pytest.raises(
        TutelageError, match="none of the teachers reads the student's tokens; use a method that learns"
    ):
        distil(teacher_folder, tmp_path / "never", teachers, strict, student="init=bilstm")
    with pytest.raises(TutelageError, match="the student has 4 layers and the teacher 3"):
        distil(teacher_folder, tmp_path / "never", teachers, strict, student="layers=4")
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_stored_layers_teach_as_those_that_run(teacher_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    teachers = [str(teacher_folder / name) for name in ("teacher", "second")]
    students = []
    for out, more in (("live", {}), ("stored", {"teacher_store": "auto", "store_dtype": "float32"})):
        distil(teacher_folder, tmp_path / out, teachers, mt_bert(), "stages.distill.lr=1e-3", **more)
        students.append(load_file(tmp_path / out / "student" / "model.safetensors"))
    kept = [path for path in (tmp_path / "stores").rglob("manifest.json") if "tokens" in path.read_text()]
    assert len(kept) == 3  # predictions of the first, and both teachers' layers
    assert_alike(students[0], students[1], within=2e-5)
