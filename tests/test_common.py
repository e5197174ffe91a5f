"""The common table: every method, every family, through the same checks. A new method is one row here.

Two more checks of the table need no row of their own: ``test_training`` shows, for the loop that all methods share, that a
killed run resumes to the same bits, that pieces and padding change nothing, and that known logits teach as the live teacher.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from conftest import (
    ALIKE,
    ALL_FAMILIES,
    FINAL_NORM,
    LABELS,
    assert_alike,
    make_data,
    tiny_config,
    tiny_model,
    write_csv,
)
from processes import KILLED, in_process, in_processes, run_of
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tutelage.anatomy.families import FAMILIES
from tutelage.data.augmentation.rules import Rules
from tutelage.data.config import DataConfig
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism, of_kind
from tutelage.mechanisms.team.settings import Team
from tutelage.methods import METHODS
from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.model import load_report
from tutelage.run.run import run
from tutelage.students.specs import (
    BiLSTM,
    Checkpoint,
    Copied,
    Fresh,
    Gated,
    Inherited,
    Ordered,
    Pruned,
    Reduced,
    Shared,
    Student,
)
from tutelage.training import optimizers

ROWS: dict[str, Student] = {
    "finetune": Copied(layers=2, choose="first"),
    "compact": Copied(layers=2),
    "compact_int8": Copied(layers=1),
    "kd": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "takd": Copied(layers=1, choose="first"),
    "deep_compression": Copied(layers="all"),
    "cofi": Gated(share=0.5),
    "logits_mse": Copied(layers=2),
    "similarity": Copied(layers=2, choose="first"),
    "bilstm": BiLSTM(hidden=16, intermediate=16, embedding=16),
    "bilstm_reference": BiLSTM(hidden=16, intermediate=16, embedding=16),
    "pkd": Copied(layers=2, choose="first"),
    "pkd_reference": Copied(layers=2, choose="first"),
    "alp_kd": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "ckd": Copied(layers=2, choose="first"),
    "rail_kd": Fresh(layers=3, hidden=16, heads=2, intermediate=24),
    "ted": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "distilbert": Fresh(layers=2, hidden=16, heads=2),
    "tinybert": Fresh(layers=2, hidden=16, heads=4, intermediate=24),
    "tinybert_reference": Fresh(layers=2, hidden=16, heads=4, intermediate=24),
    "bert_emd": Fresh(layers=2, hidden=16, heads=4, intermediate=24),
    "fitnets": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "minilm": Fresh(layers=2, hidden=16, heads=4, intermediate=24),
    "minilm_assistant": Fresh(layers=1, hidden=16, heads=4, intermediate=24),
    "minilmv2": Fresh(layers=2, hidden=16, heads=2, intermediate=24),
    "minimum_knowledge": Pruned(layers=2, heads=2, intermediate=24, rank=8),
    "minimum_knowledge_reference": Fresh(layers=2, hidden=16, heads=4, intermediate=24),
    "dynabert": Ordered(),
    "rosita": Reduced(layers=3, heads=2, intermediate=24, rank=8),
    "wid": Inherited(hidden=16),
    "wid55": Inherited(hidden=16, strategy="head"),
    "wid11": Inherited(hidden=16, alignment="tied"),
    "wid_kd": Inherited(hidden=16),
    "pea_kd": Shared(stored=2),
    "autoskdbert": Copied(layers=2, choose="first"),
    "skdbert": Copied(layers=2, choose="first"),
    "ensemble": Fresh(layers=2, hidden=16, heads=2),
    "mt_bert": Fresh(layers=2, hidden=32, heads=4, intermediate=48),
}
"""A method and the student that it teaches here."""

ON_TEAMS = {"autoskdbert", "skdbert", "ensemble", "mt_bert"}

GENERAL_ONLY = {"pretrain", "distilbert_general", "mobilebert", "wid_reference", "wid_causal"}
"""Methods on raw text alone: their row is in test_general."""


def test_every_method_has_its_row() -> None:
    assert set(ROWS) | GENERAL_ONLY == set(METHODS)


def rows(*fast: str, leave_out: str = "") -> list[ParameterSet]:
    """All methods but one: those of ``fast`` in the fast suite, the others in the slow one."""
    names = [name for name in ROWS if name != leave_out]
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


def small(method: str, student: Student, epochs: int = 2) -> Recipe:
    """The method with few epochs, a rate for tiny models, input as short as theirs, and three texts made of one by rules."""
    recipe = METHODS[method]().part("task")
    if isinstance(recipe.augmentation, Rules):
        recipe = recipe.model_copy(update={"augmentation": Rules(iterations=3)})

    def short(stages: list[Stage]) -> list[Stage]:
        return [
            stage.model_copy(
                update={
                    "epochs": epochs,
                    "lr": stage.lr if stage.optimizer == "adadelta" else 3e-3,
                    "pad_to": stage.pad_to and 24,
                    "mechanisms": soon(stage),
                }
            )
            for stage in stages
        ]

    between = Copied(layers=2, choose="first")
    assistants = [
        a.model_copy(update={"student": a.student and between, "stages": a.stages and short(a.stages)})
        for a in recipe.assistants
    ]
    return recipe.model_copy(update={"student": student, "assistants": assistants, "stages": short(recipe.stages)})


def eager(stage: Stage) -> Stage:
    """The same, whose team's weights move from the first update on."""
    team = of_kind(stage.mechanisms, Team)
    if team is None or team.learning is None:
        return stage
    learning = team.learning.model_copy(update={"watch": 1, "keep": None})
    return stage.model_copy(update={"mechanisms": [team.model_copy(update={"learning": learning})]})


def soon(stage: Stage) -> list[Mechanism]:
    """The stage's mechanisms, pruning in five steps: two of them mask, two shrink. At a rate for tiny models the teacher's
    weights go slower, or rounding grows with them. Gates close within an epoch."""
    faster = {"pruning": {"increments": 2, "interval": 1, "weights_lr": 0.2}, "gates": {"rate": 0.7}}
    return [m.model_copy(update=faster.get(m.kind, {})) for m in stage.mechanisms]


def config_for(method: str, root: Path, out: Path, **more) -> RunConfig:
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"))
    recipe = more.pop("recipe", None) or small(method, ROWS[method])
    team = (str(root / "teacher"), str(root / "second")) if method in ON_TEAMS else ()
    places = {"teacher": str(root / "teacher"), "teachers": team, "out": str(out)}
    return RunConfig(**{"recipe": recipe, "data": data, **places, **more})


LIKE_OTHERS = {
    "dynabert",
    "minilm",
    "minilm_assistant",
    "alp_kd",
    "rail_kd",
    "deep_compression",
    "cofi",
    "bilstm_reference",
    "wid11",
    "wid55",
}
"""Their end-to-end check is in the slow suite: another row, or tests of their own, have the same parts."""


@pytest.mark.parametrize("method", rows(*(ROWS.keys() - LIKE_OTHERS)))
def test_a_run_ends_in_a_student_that_plain_transformers_loads(
    method: str, teacher_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = small(method, ROWS[method], epochs=5)
    report = run(config_for(method, teacher_folder, out, recipe=recipe, baseline=False), quiet=True)

    # The losses fall; not those of a student that has learnt the labels already, or loses what it knew.
    learning = {
        "wid_kd": slice(1),
        "deep_compression": slice(0),
        "cofi": slice(1, 2),
        "rosita": slice(1, 2),
    }
    for stage in report["stages"][learning.get(method, slice(None))]:
        for term, values in stage["losses"].items():
            assert values[-1][1] < values[0][1], term

    student = AutoModelForSequenceClassification.from_pretrained(out / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    assert student.config.id2label == dict(enumerate(LABELS))
    assert not [name for name in student.state_dict() if "projection" in name or "objective" in name]
    saved = json.loads((out / "student" / "config.json").read_text())
    assert "tutelage" not in json.dumps(saved)
    data = make_data()
    inputs = tokenizer(list(data.dev["dev"].texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = student(**inputs).logits.argmax(-1).numpy()
    assert (predicted == data.dev["dev"].labels).mean() > 0.6
    assert (out / "student" / "README.md").read_text().startswith("---")
    mapped = (
        "tinybert",
        "distilbert",
        "minimum_knowledge_reference",
        "pea_kd",
        "fitnets",
        "alp_kd",
        "ckd",
        "rail_kd",
        "ted",
        "bert_emd",
        "cofi",
        "mt_bert",
    )
    needs_projection = method.startswith(mapped)
    assert (out / "projections.safetensors").exists() == needs_projection
    if method != "finetune":
        assert report["teacher"]["score"] > 0.9
        assert report["student"]["retention"] == report["student"]["score"] / report["teacher"]["score"]
    for name in ("config.yaml", "report.json", "report.html", "metrics.jsonl"):
        assert (out / name).stat().st_size > 0
    assert load_report(out).model_dump(mode="json") == report == json.loads((out / "report.json").read_text())
    assert not (out / "checkpoint").exists()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {stage["name"] for stage in report["stages"]}
    assert all(line["memory_mb"] is None or line["memory_mb"] > 50 for line in lines)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in ALL_FAMILIES]
)
@pytest.mark.parametrize("method", ["distilbert", "tinybert"])
def test_every_family_teaches_and_learns(family: str, method: str, tokenizer, tmp_path: Path) -> None:
    """A random teacher of the family, a narrower fresh student: signals are read, losses fall, the student reloads."""
    tiny_model(family).save_pretrained(tmp_path / "teacher")
    fitted_tokenizer(tokenizer, tiny_model(family)).save_pretrained(tmp_path / "teacher")
    write_csv(tmp_path / "train.csv", 64, 1)
    write_csv(tmp_path / "dev.csv", 32, 2)
    student = Fresh(layers=2, hidden=16, heads=4, intermediate=24)
    config = config_for(
        method, tmp_path, tmp_path / "run", recipe=small(method, student, 4), baseline=False, allow_weak_teacher=True
    )
    if method == "tinybert" and FAMILIES[family].attention is None:
        with pytest.raises(
            TutelageError, match=f"attention_scores reads attention, which cannot be read of a {family}"
        ):
            run(config, quiet=True)
        assert not (tmp_path / "run").exists()
        return
    report = run(config, quiet=True)
    for stage in report["stages"]:
        for term in ("hidden", "embeddings", "attention_scores"):
            if term in stage["losses"]:
                assert stage["losses"][term][-1][1] < stage["losses"][term][0][1], term
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student").eval()
    assert reloaded.config.model_type == family
    inputs = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")(
        ["word1 good", "bad"], padding=True, return_tensors="pt"
    )
    assert reloaded(**inputs).logits.isfinite().all()


@pytest.mark.slow
def test_a_gpt2_without_a_padding_token_learns_a_task_and_teaches_it(endoftext, tmp_path: Path) -> None:
    """Texts that end in the token that pads, and one of no tokens, are answered as plain transformers does."""
    from tutelage import api
    from tutelage.data.examples import Examples, encode
    from tutelage.data.tokenizers import load_tokenizer
    from tutelage.run.workspace import new_accelerator
    from tutelage.students.load import load_model
    from tutelage.teachers.teacher import predict

    config = tiny_config("gpt2", vocab_size=len(endoftext), pad_token_id=None, n_inner=None)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "start")
    endoftext.save_pretrained(tmp_path / "start")
    assert AutoTokenizer.from_pretrained(tmp_path / "start").pad_token is None
    data = {"train": str(write_csv(tmp_path / "train.csv", 200, 1)), "dev": str(write_csv(tmp_path / "dev.csv", 64, 2))}
    settings = ["stages.*.epochs=6", "stages.*.lr=0.003"]
    api.finetune(str(tmp_path / "start"), str(tmp_path / "teacher"), settings=settings, quiet=True, **data)
    score = api.evaluate(str(tmp_path / "teacher"), quiet=True, **data).scores["dev"]["accuracy"]
    assert score > 0.8
    report = api.distill(
        str(tmp_path / "teacher"),
        str(tmp_path / "run"),
        method="kd",
        student="layers=2",
        settings=settings,
        quiet=True,
        **data,
    ).report
    assert report["teacher"]["score"] == score and report["student"]["score"] > 0.8
    with pytest.raises(TutelageError, match="in a gpt2 it sees no other token"):
        api.distill(
            str(tmp_path / "teacher"), str(tmp_path / "never"), method="pkd", student="layers=2", quiet=True, **data
        )

    pairs = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv"), "text_pair": "label"}
    report = api.finetune(
        str(tmp_path / "start"), str(tmp_path / "pairs"), settings=["stages.*.max_steps=1"], quiet=True, **pairs
    ).report
    assert any("has no separator for pairs" in warning for warning in report["warnings"])

    student, _ = load_model(str(tmp_path / "run" / "student"))
    tokenizer = load_tokenizer(str(tmp_path / "run" / "student"))
    end = tokenizer.eos_token
    assert tokenizer.pad_token == end and student.config.pad_token_id == tokenizer.eos_token_id
    texts = [f"word1 good{end}", "word1 good", f"bad{end}word2", f"{end}{end}", "", "word1 word2 word3 word4 bad word5"]
    read = encode(Examples([str(i) for i in range(6)], texts, None, np.zeros(6, np.int64)), tokenizer, 32)
    together = predict(student, read, new_accelerator())
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student").eval()
    for text, logits in zip(texts, together, strict=True):
        with torch.no_grad():
            alone = plain(**tokenizer(text or end, return_tensors="pt")).logits[0]
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[0], together[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_copied_layers_compute_what_they_did(family: str) -> None:
    """The first layers of a teacher, copied, give the teacher's own hidden states."""
    from tutelage.students.copied import copy_layers

    teacher = tiny_model(family)
    student = copy_layers(teacher, Copied(layers=2, choose="first"), {})
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True).hidden_states
        ours = student(**inputs, output_hidden_states=True).hidden_states
    last = 1 if family in FINAL_NORM else 2
    for layer in range(last + 1):
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=0)
    whole = copy_layers(teacher, Copied(layers=4), {})
    torch.testing.assert_close(whole(**inputs).logits, teacher(**inputs).logits, rtol=0, atol=0)


@pytest.mark.parametrize("method", rows("tinybert"))
def test_a_killed_run_resumes_to_the_same_bits(method: str, teacher_folder: Path, tmp_path: Path) -> None:
    """A run is killed (SIGKILL) in its middle, resumed, and compared with one that was not."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipe = small(method, ROWS[method], 2)
    for out in (whole, cut):
        (tmp_path / f"{out.name}.yaml").write_text(to_yaml(config_for(method, teacher_folder, out, recipe=recipe)))
    in_process(run_of, tmp_path / "whole.yaml")
    # In the first stage (with compactors: while masks grow, when they are cut, in the next stage), later, never.
    more = {"wid_kd": (2, 7), "autoskdbert": (50,)}.get(method, ())
    ends = [in_process(run_of, tmp_path / "cut.yaml", cut.exists(), stop) for stop in sorted({11, 27, *more})]
    assert ends[0] == KILLED
    in_process(run_of, tmp_path / "cut.yaml", True)
    projections = ["projections.safetensors"] if (whole / "projections.safetensors").exists() else []
    for name in ("student/model.safetensors", *projections):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, cut)]
    for who in ("student",) if method == "finetune" else ("teacher", "student", "baseline"):
        assert reports[0][who]["scores"] == reports[1][who]["scores"]
    steps = [
        [
            (json.loads(line)["who"], json.loads(line)["stage"], json.loads(line)["step"])
            for line in path.read_text().splitlines()
        ]
        for path in (whole / "metrics.jsonl", cut / "metrics.jsonl")
    ]
    assert len(set(steps[1])) == len(steps[1])  # nothing is logged twice
    assert reports[0]["mechanisms"] == reports[1]["mechanisms"]  # and a team's distribution went the same way


def run_without_dropout(path: Path, resume: bool = False) -> list[bool]:
    """Processes draw numbers of their own, so they part where values are dropped: by an LSTM, and before the PTP classifier.

    Returns where the processes looked for parameters without a gradient, for each time that they got the student.
    """
    looked = list[bool]()
    begin = DistributedDataParallel.__init__

    def noted(*args, find_unused_parameters: bool = False, **kwargs) -> None:
        looked.append(find_unused_parameters)
        begin(*args, find_unused_parameters=find_unused_parameters, **kwargs)

    DistributedDataParallel.__init__ = noted
    torch.nn.functional.dropout = lambda x, *args, **kwargs: x
    run_of(path, resume)
    return looked


def with_labels(recipe: Recipe) -> Recipe:
    """The same, whose stages, and those of its assistants, learn from labels, too."""

    def more(stages: list[Stage]) -> list[Stage]:
        return [stage.model_copy(update={"objective": [*stage.objective, HardLabels()]}) for stage in stages]

    assistants = [a.model_copy(update={"stages": a.stages and more(a.stages)}) for a in recipe.assistants]
    return recipe.model_copy(update={"stages": more(recipe.stages), "assistants": assistants})


OF_PROCESSES: dict[str, Student] = {
    "kd": Copied(layers=2, choose="first"),
    "rosita": Reduced(layers=3, heads=2, intermediate=24),  # the factors of embeddings turn with rounding
}
"""Other students for two processes."""


@pytest.mark.parametrize("method", rows("tinybert"))
def test_two_processes_give_the_single_processes_student(method: str, teacher_folder: Path, tmp_path: Path) -> None:
    recipe = small(method, OF_PROCESSES.get(method, ROWS[method]), 3 if method == "wid" else 1)
    if method == "autoskdbert":  # weights move at once: there are few steps
        recipe = recipe.model_copy(update={"stages": [eager(stage) for stage in recipe.stages]})
    more = {}
    if method == "rosita":
        # A student begins as its teacher: from one that knows it all it gets gradients of rounding alone.
        recipe, more = with_labels(recipe), {"teacher": str(teacher_folder / "random"), "allow_weak_teacher": True}
    students, found, lines = [], [], []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        path = tmp_path / f"{processes}.yaml"
        path.write_text(to_yaml(config_for(method, teacher_folder, out, recipe=recipe, baseline=False, **more)))
        looked = in_processes(processes, run_without_dropout, path)
        students.append(AutoModelForSequenceClassification.from_pretrained(out / "student").eval())
        found.append(json.loads((out / "report.json").read_text())["mechanisms"])
        lines.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert looked[0] == looked[1] and looked[0]
    if method == "tinybert":  # its first stage compares layers: the head takes no part
        assert looked[0] == [True, False]
    # Weights move by 1e-2 and more. The gradients' sums differ in order: on AVX2 that parts weights by 7e-7 and logits by
    # 5e-7 at most, with every sum rounded at random by 2e-6 and 1e-6. The bounds are ten times and more above. Without
    # averaging, weights are 3e-2 apart and logits 6e-2. Logits have more room, for a weight that may go either way.
    assert_alike(students[0].state_dict(), students[1].state_dict(), within=2e-5)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out1" / "student")(
        list(make_data().dev["dev"].texts), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = [student(**inputs).logits for student in students]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=0)
    for one, two in zip(*lines, strict=True):
        assert [one[name] for name in ("stage", "step")] == [two[name] for name in ("stage", "step")]
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-2, abs=1e-3)
    assert len(lines[1]) == sum(stage["steps"] for stage in json.loads((out / "report.json").read_text())["stages"])
    if method == "autoskdbert":
        teams = [mechanisms["team"]["data"] for mechanisms in found]
        ours, theirs = ([stage["history"] for stage in team["stages"]] for team in teams)
        assert np.abs(np.array(ours) - np.array(theirs)).max() < 1e-4
        assert all(abs(stage[-1][1] - 0.5) > 0.02 for stage in ours)
        for one, two in zip(*(team["stages"] for team in teams), strict=True):
            assert one["reward"] == pytest.approx(two["reward"], rel=1e-2, abs=1e-3)


def ended_in_step(path: Path, number: int) -> None:
    """A run without dropout whose process is killed (SIGKILL) in a step, in all processes at once."""
    clip, calls = optimizers.clip, 0

    def last(stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        clip(stage, optimizer)

    optimizers.clip = last
    run_without_dropout(path)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(2, 1), (1, 2)], ids=["two-then-one", "one-then-two"])
def test_a_run_goes_on_in_another_number_of_processes(
    processes: tuple[int, int], teacher_folder: Path, tmp_path: Path
) -> None:
    """Killed in its second stage and resumed, it ends with the student of one process that was not."""
    for name in ("whole", "cut"):
        recipe = small("tinybert", ROWS["tinybert"], 1)
        config = config_for("tinybert", teacher_folder, tmp_path / name, recipe=recipe, baseline=False)
        (tmp_path / f"{name}.yaml").write_text(to_yaml(config))
    in_process(run_without_dropout, tmp_path / "whole.yaml")
    before, after = processes
    first = load_report(tmp_path / "whole").stages[0].steps
    assert in_processes(before, ended_in_step, tmp_path / "cut.yaml", first + 4) == [KILLED] * before
    assert (tmp_path / "cut" / "checkpoint").is_dir()
    in_processes(after, run_without_dropout, tmp_path / "cut.yaml", True)
    whole, cut = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "cut"))
    assert_alike(cut, whole, within=2e-5)  # as between one process and two
    lines = [
        [(line["stage"], line["step"]) for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open())]
        for name in ("whole", "cut")
    ]
    assert lines[0][-1] == lines[1][-1] and len(set(lines[1])) == len(lines[1])


@pytest.mark.parametrize("method", rows("kd"))
def test_onnx_gives_what_pytorch_gives(method: str, teacher_folder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "run"
    run(config_for(method, teacher_folder, out, baseline=False), quiet=True)
    student = AutoModelForSequenceClassification.from_pretrained(out / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    inputs = dict(tokenizer(["word1 good word2", "bad"], padding=True, return_tensors="pt"))
    names = list(inputs)
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in names}
    torch.onnx.export(
        student, (), tmp_path / "student.onnx", kwargs=inputs, dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    longer = dict(tokenizer(["word1 good word2 word3 word4", "bad poor", "word9"], padding=True, return_tensors="pt"))
    onnx = session.run(None, {name: value.numpy() for name, value in longer.items()})[0]
    with torch.no_grad():
        torch_logits = student(**longer).logits.numpy()
    np.testing.assert_allclose(onnx, torch_logits, atol=1e-5)


def test_unlabelled_text_and_other_tokenizers(teacher_folder: Path, tmp_path: Path) -> None:
    """A student of another family with another tokenizer learns from predictions on unlabelled text."""
    from conftest import VOCABULARY
    from transformers import BertTokenizerFast

    other = BertTokenizerFast(vocab={word: i for i, word in enumerate(reversed(VOCABULARY))}, model_max_length=32)
    model = tiny_model("distilbert", layers=2, pad_token_id=other.pad_token_id)
    model.save_pretrained(tmp_path / "student")
    other.save_pretrained(tmp_path / "student")
    write_csv(tmp_path / "more.csv", 200, 9, label=False)
    recipe = small("kd", Checkpoint(name=str(tmp_path / "student")), 4)
    config = config_for("kd", teacher_folder, tmp_path / "run", recipe=recipe, baseline=False)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"unlabeled": str(tmp_path / "more.csv")})}
    )
    report = run(config, quiet=True)
    assert report["data"]["unlabeled"] == 200
    assert report["student"]["score"] > 0.85
    # Both cut the words alike, so layers can be compared token by token, whatever the ids.
    recipe = small("distilbert", Checkpoint(name=str(tmp_path / "student")))
    report = run(
        config_for("distilbert", teacher_folder, tmp_path / "hidden", recipe=recipe, baseline=False), quiet=True
    )
    hidden = report["stages"][0]["losses"]["hidden"]
    assert hidden[-1][1] < hidden[0][1]
