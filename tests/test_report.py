"""The typed report, its page and its card: what they say of good and of bad runs, and that names cannot break them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import ValidationError

from tutelage.anatomy import Shape
from tutelage.artifacts import write_json
from tutelage.errors import TutelageError
from tutelage.mechanisms.mechanism import Mechanism, reported
from tutelage.mechanisms.pruning import report as pruning
from tutelage.mechanisms.pruning.report import InheritedEntry, KeptUnits
from tutelage.mechanisms.team import report as team
from tutelage.mechanisms.team.report import MemberEntry, TeamEntry, TeamStage
from tutelage.methods import METHODS
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.objective import ObjectivePlan
from tutelage.report import comparison as compared
from tutelage.report import corpus
from tutelage.report.card import card
from tutelage.report.charts import Bars, Lines, drawing, lines
from tutelage.report.findings import one_sided
from tutelage.report.mechanisms import BaselineWords, MechanismEntry, TeachersEntry, TeacherShare
from tutelage.report.model import (
    REPORT,
    Best,
    CorpusEntry,
    CorpusModel,
    CorpusReport,
    CorpusStage,
    CorpusStudent,
    DataEntry,
    Environment,
    HeldOutLosses,
    InstancesEntry,
    MappingEntry,
    ModelEntry,
    StudentEntry,
    TaskReport,
    TaskStage,
    Trial,
    Trials,
    load_report,
    schema,
)
from tutelage.report.numbers import count_text, flops_text, milliseconds, percent, score_text, seconds_text
from tutelage.report.page import comparison, curves, loss_charts, page, score_charts
from tutelage.report.quality import (
    CalibrationEntry,
    CalibrationScores,
    ClassEntry,
    ClassScores,
    Confusion,
    Difference,
    Disagreement,
    DisagreementsEntry,
    ReliabilityBin,
)
from tutelage.report.references import Paper, bibtex
from tutelage.report.section import Bar, BarChart, Cell, Column, Fact, Line, LineChart, Row, Section, Table
from tutelage.report.words import caution, constant_note, outcome, selection, student_stages, verdict, with_interval
from tutelage.run.plan import mapping_lines
from tutelage.tasks import KINDS

HOSTILE = "<script>alert(1)</script>\"'|`[a](javascript:b)</title>\n---\n# {{ 7 * 7 }}"
ENVIRONMENT = Environment(torch="2.13.0", transformers="5.23.0", device="cpu", threads=2, precision="fp32")


def entry(
    name: str, f1: float, accuracy: float, parameters: int, flops: int, one: float, many: float
) -> dict[str, Any]:
    return {
        "name": name,
        "score": f1,
        "scores": {"dev": {"f1": f1, "accuracy": accuracy}},
        "parameters": parameters,
        "flops": flops,
        "latency_ms": {"1": one, "32": many},
        "shape": "3 layers x 312, 12 heads, intermediate 1200",
    }


@pytest.fixture
def report() -> TaskReport:
    student = entry("runs/mrpc/student", 0.8544, 0.811, 10_713_986, 450_000_000, 4.4, 80.1)
    return TaskReport(
        tutelage="0.1.0",
        method="tinybert",
        title="TinyBERT",
        paper="Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351",
        task="mrpc",
        kind="classification",
        metric="f1",
        labels=["not_equivalent", "equivalent"],
        data=DataEntry(
            train=3301,
            unlabeled=0,
            augmented=0,
            held_out=0,
            validation=367,
            evaluation=408,
            sources={"train": "train.tsv", "validation": "10% of train, held out", "evaluation": "dev.tsv"},
            truncated={"train": 3, "evaluation": 0},
            mean_length=53.2,
        ),
        teacher=ModelEntry(**entry("runs/teacher", 0.88, 0.832, 22_713_986, 1_100_000_000, 9.1, 160.2)),
        student=StudentEntry(**student, retention=0.8544 / 0.88, speedup=2.0, agreement=0.93, bytes=41_234_567),
        baseline=ModelEntry(**entry("without teacher", 0.815, 0.76, 10_713_986, 450_000_000, 4.4, 80.0)),
        store=None,
        mapping=[
            MappingEntry(stage="intermediate", knowledge="embeddings", pairs=[(0, 0)]),
            MappingEntry(stage="intermediate", knowledge="hidden", pairs=[(1, 2), (2, 4), (3, 6)]),
        ],
        teacher_layers=6,
        student_layers=3,
        stages=[
            TaskStage(
                name="intermediate",
                epochs=10,
                steps=1000,
                seconds=61.2,
                best=None,
                losses={"hidden": [(50, 1.2), (100, 0.8)], "embeddings": [(50, 0.012), (100, 0.004)]},
                scores=[],
                tokens=1_756_000,
                discarded=False,
            ),
            TaskStage(
                name="prediction",
                epochs=3,
                steps=312,
                seconds=340.1,
                best=Best(epoch=2, score=0.851),
                losses={"soft_labels": [(104, 0.6), (312, 0.3)]},
                scores=[(1, 0.81), (2, 0.851), (3, 0.849)],
                tokens=527_000,
                discarded=False,
            ),
            TaskStage(  # the baseline's
                name="labels",
                epochs=13,
                steps=1312,
                seconds=400.1,
                best=Best(epoch=7, score=0.817),
                losses={"hard_labels": [(104, 0.6), (1312, 0.2)]},
                scores=[(1, 0.8), (7, 0.817), (13, 0.81)],
                tokens=2_283_000,
                discarded=False,
            ),
        ],
        warnings=["3 texts of train were longer than 512 tokens and were cut"],
        environment=ENVIRONMENT,
        seed=0,
        seconds=410.5,
    )


@pytest.fixture
def alone(report: TaskReport) -> TaskReport:
    """A fine-tuned model: no teacher, no baseline, nothing to compare with."""
    report.student.retention = report.student.speedup = report.student.agreement = None
    fields: dict[str, Any] = {"teacher": None, "baseline": None, "mapping": [], "teacher_layers": None}
    return report.model_copy(update={**fields, "stages": report.stages[:-1]})


@pytest.fixture
def taught(report: TaskReport) -> TaskReport:
    """Three teachers, of which the first of two stages has dropped one; a new student began after each."""
    members = [
        MemberEntry(
            name=name,
            folder=f"/home/ann/team/{name}",
            shape="6 layers x 768, 12 heads, intermediate 3072",
            parameters=parameters,
            scores={"held_out": {"f1": held, "accuracy": 0.5}, "dev": {"f1": dev, "accuracy": 0.5}},
        )
        for name, parameters, held, dev in (
            ("seed0", 109_482_240, 0.871, 0.88),
            ("seed1", 66_955_010, 0.912, 0.86),
            ("noise", 109_482_240, 0.2, 0.1),
        )
    ]
    search = TeamStage(
        stage="search",
        start=[1 / 3, 1 / 3, 1 / 3],
        probabilities=[0.25, 0.7, 0.05],
        next=[0.263, 0.737, 0.0],
        kept=["seed0", "seed1"],
        draws=[100, 1100, 50],
        reward=[-0.021, 0.5, None],
        updates=1250,
        skipped=3,
        settled=625,
        temperature=1.374,
        history=[[i, 1 / 3 - i / 15000, 1 / 3 + i / 3409, 17 / 60 - i / 5357] for i in range(2, 1251, 4)]
        + [[1250, 0.25, 0.7, 0.05]],
        score=0.84,
        constant=0.812,
    )
    refine = search.model_copy(
        update={
            "stage": "refine",
            "start": [0.263, 0.737, 0.0],
            "probabilities": [0.1, 0.9, 0.0],
            "next": [0.1, 0.9, 0.0],
            "draws": [20, 180, 0],
            "reward": [0.1, 0.2, None],
            "updates": 200,
            "skipped": 0,
            "settled": None,
            "temperature": None,
            "history": [[100, 0.2, 0.8, 0.0], [200, 0.1, 0.9, 0.0]],
        }
    )
    assert report.teacher is not None
    report.teacher.name = "/home/ann/team/seed0"
    report.data.held_out = 367
    first, last, labels = report.stages
    report.stages = [
        first.model_copy(update={"name": "search", "discarded": True}),
        first.model_copy(update={"name": "refine", "discarded": True}),
        last.model_copy(update={"name": "distill"}),
        labels,
    ]
    starts = {"search": search.start, "refine": refine.start, "distill": refine.next}
    report.mapping = []
    return with_team(report, TeamEntry(members=members, starts=starts, stages=[search, refine]))


def with_team(report: TaskReport, found: TeamEntry) -> TaskReport:
    """The report with what the mechanism says of a team."""
    report.mechanisms["team"] = team.entry(found)
    report.sections = [team.section(found, report.metric, report.data.held_out)]
    return report


def team_of(report: TaskReport) -> TeamEntry:
    return TeamEntry.model_validate(report.mechanisms["team"].data)


@pytest.fixture
def pretrained() -> CorpusReport:
    """General distillation in one stage."""
    return CorpusReport(
        tutelage="0.1.0",
        method="tinybert",
        title="TinyBERT",
        paper="Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351",
        predicts="none",
        held_out=256,
        corpus=CorpusEntry(path="corpus", sources=["a.txt"], tokens=2_000_000, documents=812),
        teacher=CorpusModel(name="bert-base-uncased", shape="12 layers x 768", parameters=109_482_240),
        student=CorpusStudent(
            name="runs/small/student", shape="4 layers x 312", parameters=14_350_248, bytes=57_000_000
        ),
        stages=[
            CorpusStage(
                name="general",
                epochs=1,
                steps=500,
                seconds=601.0,
                best=None,
                losses={"hidden": [(50, 1.2), (500, 0.4)]},
                scores=[(1, -0.41)],
                tokens=1_980_000,
                held_out=HeldOutLosses(before={"hidden": 1.25}, after={"hidden": 0.41}),
                data=InstancesEntry(packing="pairs", length=128, masking=None),
            )
        ],
        environment=ENVIRONMENT,
        seed=0,
        seconds=640.0,
    )


@pytest.fixture
def hostile(report: TaskReport) -> TaskReport:
    """Every text in the report, and every key that comes from a name, is an attack."""

    def spoilt(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: spoilt(value, name) for name, value in node.items()}
        if isinstance(node, list):
            return [spoilt(value, key) for value in node]
        return (
            HOSTILE if isinstance(node, str) and key not in ("metric", "kind", "knowledge", "style", "align") else node
        )

    report.sections = [everything()]
    report = with_answers(report)
    tree = spoilt(report.model_dump(mode="json"))
    for who in ("teacher", "student", "baseline"):
        tree[who]["scores"] = {HOSTILE: tree[who]["scores"]["dev"]}
    tree["data"]["truncated"] = {HOSTILE: 1}
    tree["stages"][0]["losses"] = {HOSTILE: [[1, 1.0], [2, 0.5]]}
    return TaskReport.model_validate(tree)


def with_answers(report: TaskReport, classes: int = 2, texts: int = 1) -> TaskReport:
    """The report with numbers by class, errors, disagreements and a calibration."""
    scores = CalibrationScores(
        ece=0.081, brier=0.3, kl_to_teacher=0.25, bins=[ReliabilityBin(count=408, confidence=0.92, accuracy=0.811)]
    )
    after = scores.model_copy(update={"ece": 0.02})
    change = Difference(value=-0.25, low=-0.4, high=-0.1)
    student, teacher = ClassScores(recall=0.5, f1=0.6), ClassScores(recall=0.75, f1=0.8)
    more = {
        "classes": [
            ClassEntry(name=f"class {i}", support=30, student=student, teacher=teacher, recall_difference=change)
            for i in range(classes)
        ],
        "confusions": [Confusion(label="not_equivalent", predicted="equivalent", student=41, teacher=17)],
        "disagreements": DisagreementsEntry(
            found=texts + 7,
            listed=[
                Disagreement(
                    text=f"text {i} " + 10_000 * "x",
                    text_pair="a pair",
                    label="equivalent",
                    student="not_equivalent",
                    student_probability=0.61,
                    teacher="equivalent",
                    teacher_probability=0.9,
                )
                for i in range(texts)
            ],
        ),
        "calibration": CalibrationEntry(
            temperature=1.374, texts=367, source="10% of train, held out", before=scores, after=after
        ),
    }
    return report.model_copy(update=more)


def everything() -> Section:
    """A section as a mechanism in a user's own file may bring one."""
    return Section(
        title="Gates",
        paragraphs=["A gate closes a head."],
        table=Table(
            caption="Open heads",
            head="Layer",
            columns=[Column(title="Open", group="Stage one"), Column(title="Why", align="text")],
            rows=[
                Row(name="1", cells=[Cell(text="7", below="closed", style="best"), "useful"], style=1, title="first")
            ],
        ),
        remarks=["Closed heads cost nothing."],
        items=["one", "two"],
        facts=[Fact(name="Open", text="31 of 48", code="gates")],
        pictures=[
            LineChart(
                title="Open heads by step",
                summary="from 48 to 31",
                x="step",
                y="heads",
                lines=[
                    Line(name="all", points=[(0, 48), (9, 31)], style=1),
                    Line(name="none", points=[(0, 0)], style=None),
                ],
                level=24.0,
                level_name="half",
            ),
            BarChart(title="Open", bars=[Bar(name="layer 1", value=7, text="7")]),
        ],
        notes=["Small print."],
        command="tutelage recipe gates",
    )


class Tags(HTMLParser):
    """The elements of a page, their attributes, and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    tree = yaml.safe_load(match[1])
    assert isinstance(tree, dict)
    return tree


# ---------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_for_people() -> None:
    texts = [score_text(0.8834), percent(0.971), count_text(22_713_986), count_text(3301), flops_text(1.1e9)]
    texts += [milliseconds(9.1), milliseconds(160.2), milliseconds(0.123), seconds_text(61.2), seconds_text(340.1)]
    texts += [seconds_text(7380), score_text(None), percent(float("nan")), count_text(109_482_240)]
    assert [text.replace("\u00a0", " ") for text in texts] == [
        *("0.883", "97.1 %", "22.7 M", "3,301", "1.1 GFLOP"),
        *("9.1 ms", "160 ms", "0.12 ms", "61 s", "5 min 40 s"),
        *("2 h 3 min", "–", "–", "109 M"),
    ]


# ---------------------------------------------------------------------------------------------------------- verdict


def test_verdict_of_a_good_run(report: TaskReport) -> None:
    report.student.over_teacher = Difference(value=-0.0256, low=-0.041, high=-0.0104)
    report.student.over_baseline = Difference(value=0.0394, low=0.012, high=0.066)
    assert verdict(report).replace("\u00a0", " ") == (
        "The student keeps 97.1 % of the teacher's f1 (difference −0.026, 95 % interval −0.041 to −0.010) with 2.1x fewer "
        "parameters and runs 2.0x faster at batch size 32; without distillation the same student reaches 0.815 "
        "(difference +0.039, 95 % interval +0.012 to +0.066)."
    )
    assert caution(report) is None
    told = "student minus &#39;Without distillation&#39; +0.039 (95\u00a0% interval +0.012 to +0.066)"
    assert told in page(report)


@pytest.mark.parametrize(("reached", "words"), [(0.8601, "0.860, 0.006 more"), (0.8541, "0.854, the same")])
def test_verdict_where_distillation_did_not_pay(report: TaskReport, reached: float, words: str) -> None:
    assert report.baseline is not None
    report.baseline.score = reached
    assert verdict(report).endswith(
        f"; distillation did not pay here: without distillation the same student reaches {words}."
    )
    assert "did not pay" in page(report)
    assert "did not pay" in card(report)


def test_a_class_with_a_comma_is_one_of_the_list(report: TaskReport) -> None:
    report.labels = ["open", "balance, checking"]
    assert "Labels: open, 'balance, checking'." in card(report)


def test_a_difference_has_one_value(report: TaskReport) -> None:
    """Not that of the rounded scores beside that of the scores."""
    assert report.baseline is not None
    report.student.score, report.baseline.score = 0.95833, 0.96667
    report.student.over_baseline = Difference(value=-0.00834, low=-0.033, high=0.017)
    said = f"{verdict(report)} {caution(report)} {card(report)}"
    assert "reaches 0.967 (difference −0.008" in said and "The difference of 0.008 may be chance" in said
    assert "0.009" not in said


def test_verdict_of_a_poor_slow_large_student(report: TaskReport) -> None:
    report.student.retention, report.student.speedup, report.student.parameters = 0.6, 0.5, 45_427_972
    text = verdict(report)
    assert "keeps only 60.0" in text
    assert "with 2.0x more parameters but runs 2.0x slower at batch size 32" in text


def test_the_terminal_says_how_sure_a_retention_is(report: TaskReport) -> None:
    report.student.over_teacher = Difference(value=-0.0256, low=-0.041, high=-0.0104)
    note = compared.comparison(report.model_dump(mode="json")).notes[0]
    kept = "The student keeps 97.1% of the teacher's f1 (difference −0.026, 95\u00a0% interval −0.041 to −0.010)"
    assert note.startswith(kept)
    report.student.over_teacher = None
    note = compared.comparison(report.model_dump(mode="json")).notes[0]
    assert note.startswith("The student keeps 97.1% of the teacher's f1 and is ")


def test_verdict_of_a_student_above_its_teacher(report: TaskReport) -> None:
    """The interval of the difference decides; without one neither word is used."""
    report.student.score, report.student.retention = 0.9, 0.9 / 0.88
    assert verdict(report).startswith("The student keeps 102.3\u00a0% of the teacher's f1 with")
    for low, words in ((-0.004, "is level with"), (0.003, "beats")):
        report.student.over_teacher = Difference(value=0.02, low=low, high=0.044)
        assert verdict(report).startswith(
            f"The student {words} the teacher's f1 (0.900 against 0.880; 95\u00a0% interval "
        )


def test_verdict_without_ratios(report: TaskReport) -> None:
    report.student.retention = report.student.speedup = report.student.agreement = None
    assert verdict(report).startswith(
        "The student reaches f1 0.854 against the teacher's 0.880, with 2.1x fewer parameters;"
    )


def test_a_difference_on_a_single_example_has_no_interval(report: TaskReport) -> None:
    """Nothing is said to be better, and what is written is JSON."""
    assert report.baseline is not None and report.teacher is not None
    alone = Difference(value=1.0, low=None, high=None)
    report.data.evaluation, report.student.over_teacher, report.student.over_baseline = 1, alone, alone
    report.student.retention = 1.1
    report.classes = [
        ClassEntry(name="x", support=1, student=ClassScores(recall=1, f1=1), teacher=ClassScores(recall=0, f1=0),
                   recall_difference=alone, lost=0),
    ]  # fmt: skip
    level = "The student is level with the teacher's f1 (0.854 against 0.880; no interval of a single example)"
    assert verdict(report).startswith(level)
    assert "on 1 examples it has no interval" in str(caution(report))
    assert "no interval of a single example" in page(report) and "None" not in page(report)
    assert with_interval(alone) == "+1.000"
    for value in ("Infinity", "NaN"):
        assert value not in report.model_dump_json()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(report: TaskReport, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Difference(value=0.0, low=value, high=0.0)
    report.student.score = value  # past the validation
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / REPORT, report)
    assert not (tmp_path / REPORT).exists()


def test_a_gain_whose_interval_includes_0_is_called_so(report: TaskReport) -> None:
    assert report.baseline is not None
    report.baseline.score = 0.85
    report.student.over_baseline = Difference(value=0.0044, low=-0.012, high=0.02)
    remark = caution(report)
    assert remark is not None
    assert "0.004" in remark and "408 examples" in remark and "−0.012 to +0.020" in remark
    assert "Another seed may reverse it" in page(report)


# -------------------------------------------------------------------------------------------------------- report.json


def test_a_report_is_read_back_as_it_was_written(
    report: TaskReport, pretrained: CorpusReport, hostile: TaskReport, tmp_path: Path
) -> None:
    report.student.over_teacher = Difference(value=-0.1, low=None, high=None)
    for one in (report, pretrained, hostile):
        (tmp_path / REPORT).write_text(one.model_dump_json(indent=1), encoding="utf-8")
        again = load_report(tmp_path)
        assert type(again) is type(one)
        assert again.model_dump_json() == one.model_dump_json()
        assert json.loads((tmp_path / REPORT).read_text(encoding="utf-8"))["schema_version"] == 2


def test_values_that_do_not_exist_are_absent(report: TaskReport, alone: TaskReport) -> None:
    assert {"retention", "speedup", "module"}.isdisjoint(alone.model_dump(mode="json")["student"])
    assert alone.model_dump(mode="json")["student"]["agreement"] is None
    assert {"gpu", "cpu", "command"}.isdisjoint(report.model_dump(mode="json")["environment"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no report.json"),
        ('{"tutelage": ', "cannot be read"),
        ("[]", "the file: Input should be"),
        ('{"general": true}', "tutelage: Field required"),
        ('{"schema_version": 1}', "schema_version: Input should be 2"),
    ],
)
def test_damaged_and_foreign_reports_are_refused_in_a_line(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / REPORT).write_text(text)
    with pytest.raises(TutelageError) as error:
        load_report(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_schema_says_what_every_field_is() -> None:
    found = schema()
    assert found["task"]["properties"]["metric"]["description"] == "The task's first metric."
    assert "milliseconds" in found["task"]["$defs"]["ModelEntry"]["properties"]["latency_ms"]["description"]
    assert found["corpus"]["properties"]["general"]["const"] is True
    json.dumps(found)


# ------------------------------------------------------------------------------------------------------------- page


def test_spreads_sizes_and_where_a_run_comes_from(report: TaskReport, pretrained: CorpusReport) -> None:
    environment = ENVIRONMENT.model_copy(update={"cpu": "Xeon <7>", "command": "tutelage distill --out 'a b'"})
    origins = {"the data": "0a1b", "the teacher 'runs/teacher'": "2c3d 4e5f"}
    for one in (report, pretrained):
        one.environment, one.origins = environment, origins
    for text in (page(report), corpus.page(pretrained)):
        assert "Xeon &lt;7&gt;" in text and "<code>tutelage distill --out &#39;a b&#39;</code>" in text
        assert "<dt>fingerprint of the data</dt><dd><code>0a1b</code>" in text
        assert "<dt>fingerprint of the teacher &#39;runs/teacher&#39;</dt><dd><code>2c3d 4e5f</code>" in text
    assert report.teacher is not None
    assert {row.label: row for row in comparison(report)}["Size on disk"].ratio == ""  # of an older report
    report.teacher.bytes, report.teacher.latency_spread_ms = 90_900_000, {"1": 0.31, "32": 12.34}
    rows = {row.label: row for row in comparison(report)}
    assert rows["Size on disk"].cells == {"teacher": "90.9\u00a0MB", "student": "41.2\u00a0MB"}
    assert rows["Size on disk"].ratio == "2.2x smaller"
    assert rows["Latency, batch size 1"].cells["teacher"] == "9.1\u00a0ms (0.31)"
    assert "(0.31)" in card(report) and "in brackets the distance of the quartiles" in card(report)
    assert "on the CPU (Xeon" in card(report)


def test_page_needs_nothing_but_itself(report: TaskReport) -> None:
    text = page(report)
    assert text.startswith("<!doctype html>")
    assert "http" not in text
    assert "url(" not in text and "@import" not in text
    for tag, attributes in Tags(text).found:
        assert tag not in ("script", "link", "img", "iframe", "object", "image", "use")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


@pytest.mark.parametrize("which", ["report", "taught", "pretrained", "sections"])
def test_page_is_well_formed_and_accessible(
    which: str, report: TaskReport, pretrained: CorpusReport, request: pytest.FixtureRequest
) -> None:
    if which == "sections":
        report.sections = [everything(), everything()]
        text = page(report)
    else:
        text = corpus.page(pretrained) if which == "pretrained" else page(request.getfixturevalue(which))
    tags = Tags(text)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags.found:
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup")
        if tag == "svg":
            named = (attributes.get("aria-labelledby") or "").split()
            assert set(named) <= set(ids)
            assert len(named) == 2 or attributes.get("aria-hidden") == "true"


def test_page_answers_in_order(report: TaskReport) -> None:
    text = page(report)
    places = [
        text.index(words)
        for words in (
            'class="verdict"',
            "2.1x fewer</td>",
            "Score: f1",
            "layers that are compared",
            "hidden states loss",
            "f1 on the validation split",
            "10% of train, held out",
            "were cut</li>",
            "2.13.0",
            "tutelage run config.yaml",
        )
    ]
    assert places == sorted(places)


def test_page_shows_the_sections_that_a_report_brings(
    report: TaskReport, pretrained: CorpusReport, tmp_path: Path
) -> None:
    """What a mechanism of the user's own put into ``report.json`` appears, every part of it, without a change of the package."""
    for one, draw in ((report, page), (pretrained, corpus.page)):
        tree = one.model_dump(mode="json")
        tree["sections"] = [everything().model_dump(mode="json")]
        (tmp_path / REPORT).write_text(json.dumps(tree), encoding="utf-8")
        text = draw(load_report(tmp_path))
        parts = (
            ">Gates</h2>",
            "<p>A gate closes a head.</p>",
            "<caption>Open heads</caption>",
            'colspan="1" class="group">Stage one</th>',
            '<td role="cell" data-of="Stage one, Open" class="own">7<br/>closed</td>',
            '<td role="cell" data-of="Why" class="text">useful</td>',
            "<p>Closed heads cost nothing.</p>",
            "<li>two</li>",
            "<dd><code>gates</code>, 31 of 48</dd>",
            "<figcaption>Open heads by step</figcaption>",
            "half</li>",
            '<rect class="bar student"',
            '<p class="aside">Small print.</p>',
            "tutelage recipe gates",
            ">How it was trained</h2>",
        )
        places = [text.index(part, text.index(">Gates</h2>")) for part in parts]
        assert places == sorted(places)


class Heater(Mechanism):
    """A mechanism of the user's own, with numbers, words and a section."""

    kind: Literal["heater"] = "heater"
    degrees: float = 20.5

    def report(self, scene: Any) -> MechanismEntry:
        words = BaselineWords(heading="Cold student", row="cold student", reaches="a cold student reaches")
        shares = [
            TeacherShare(name="sun", folder="runs/teacher", weight=0.75),
            TeacherShare(name="fire", folder="b", weight=0),
        ]
        return MechanismEntry(
            baseline=words,
            teachers=TeachersEntry(weights="warmth", shares=shares),
            kept={"intermediate": "its heat"},
            data={"degrees": self.degrees},
        )

    def sections(self, scene: Any) -> list[Section]:
        return [Section(title="Heat", facts=[Fact(name="Degrees", text=str(self.degrees))])]


class Silent(Mechanism):
    """One that says nothing."""

    kind: Literal["silent"] = "silent"


def test_a_mechanism_of_the_users_own_brings_data_words_and_a_section(
    report: TaskReport, pretrained: CorpusReport, tmp_path: Path
) -> None:
    """Of several of one kind the last speaks. Nothing in the package knows it by name."""
    scene: Any = None
    said = reported([Heater(degrees=9), Silent(), Heater()], scene)
    assert list(said["mechanisms"]) == ["heater"]
    report.stages[0].discarded = True
    for one, draw in ((report, page), (pretrained, corpus.page)):
        filled = type(one).model_validate(one.model_dump() | said)
        (tmp_path / REPORT).write_text(filled.model_dump_json(), encoding="utf-8")
        back = load_report(tmp_path)
        assert back.mechanisms["heater"].data == {"degrees": 20.5}
        assert ">Heat</h2>" in draw(back) and "<dd>20.5</dd>" in draw(back)
        if isinstance(back, TaskReport):
            text, told = page(back), card(back)
            assert ">Cold student</th>" in text and ">its heat</td>" in text
            assert "a cold student reaches 0.815" in verdict(back) and "the teacher sun" in verdict(back)
            assert compared.comparison(back.model_dump(mode="json")).rows[2][0] == "cold student"
            assert "trained by 2 teachers. The one it is compared with is sun." in text
            assert (
                "Teachers, with warmth: `sun` 0.750, `fire` 0.000." in told
                and "errors and biases of its teachers" in told
            )
    with pytest.raises(ValidationError, match="finite"):
        MechanismEntry(data={"degrees": [float("nan")]})


def test_the_report_knows_no_mechanism_by_name() -> None:
    """A mechanism brings what is said of it: nothing in ``report/`` speaks of a team or of inherited weights."""
    root = Path(corpus.__file__).parent
    for path in (*root.glob("*.py"), *root.glob("templates/*.md.jinja")):
        assert not re.search(r"\b(teams?|inherited|compactors?)\b", path.read_text(encoding="utf-8")), path


def test_page_escapes_every_name(hostile: TaskReport) -> None:
    tags = Tags(page(hostile))
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"img", "iframe"})
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert page(hostile).count("<script") == 1  # the page's own
    assert "<script>alert" not in page(hostile)
    assert "{{ 7 * 7 }}" in page(hostile)


def test_page_shows_the_answers(report: TaskReport) -> None:
    text = page(with_answers(report, classes=23, texts=3))
    assert Tags(text).open == []
    assert "class 19</th>" in text and "class 20</th>" not in text and "report.json lists 3 more classes." in text
    assert "−0.250<br/>−0.400 to −0.100</td>" in text
    assert re.search(r"not_equivalent</th>\s*<td[^>]*>equivalent</td>\s*<td[^>]*>41</td>\s*<td[^>]*>17</td>", text)
    assert (
        "On 10 of 408 texts of the evaluation set the student predicts another class than the teacher. 3 are shown."
        in text
    )
    assert "text 2 " in text and "x" * 200 not in text and "x" * 180 in text
    assert text.count('<input type="search"') == 1 and text.count("<script>") == 1
    assert "The temperature 1.37 was fitted on 367 texts of the validation split (10% of train, held out)." in text
    assert re.search(r"Expected calibration error</th>\s*<td[^>]*>0.081</td>\s*<td[^>]*>0.020</td>", text)
    assert "81% right at 92%" in text
    assert "<script>" not in page(report) and "By class" not in page(report)


def test_page_of_a_model_without_a_teacher_shows_its_classes(alone: TaskReport) -> None:
    entries = with_answers(alone).classes
    alone.classes = [one.model_copy(update={"teacher": None, "recall_difference": None}) for one in entries]
    text = page(alone)
    assert "The lowest recall first" in text and "Difference in recall" not in text and "Teacher" not in text


def test_page_without_teacher_and_baseline(alone: TaskReport) -> None:
    text = page(alone)
    assert "Trained without a teacher, the model reaches f1 0.854" in text
    assert "Student to teacher" not in text and "Gain" not in text
    assert Tags(text).open == []


def test_page_without_baseline(report: TaskReport) -> None:
    report.baseline = None
    text = page(report)
    assert "Student to teacher" in text and "Gain" not in text
    assert "without distillation" not in verdict(report)


def test_page_draws_odd_numbers(report: TaskReport) -> None:
    report.metric = "mcc"
    for one, value in ((report.teacher, 0.0), (report.student, -0.2), (report.baseline, float("nan"))):
        assert one is not None
        one.score, one.scores = value, {"dev": {"mcc": value}}
    report.stages[0].losses = {
        "hidden": [(i, 1 / i) for i in range(1, 5000)],
        "embeddings": [(1, 0.0), (2, 0.0)],
        "labels": [],
        "soft_labels": [(1, 3e-9), (2, 1e-9)],
    }
    report.stages[1].scores = [(1, 0.5), (2, 0.5)]
    assert Tags(page(report)).open == []
    charts = [lines(chart) for chart in loss_charts(report.stages)]
    sizes = [len(curve.points) for chart in charts for curve in chart.curves]
    assert sizes == [pytest.approx(240, abs=10), 2, 2, 2, 2]
    for chart in [*charts, *map(lines, score_charts(report))]:
        for curve in chart.curves:
            for x, y in curve.points:
                assert chart.left - 0.01 <= x <= chart.right + 0.01 and chart.top - 0.01 <= y <= chart.bottom + 0.01


def test_charts_of_nothing_are_drawn() -> None:
    empty = drawing(LineChart(title="t", summary="s", x="x", y="y", lines=[Line(points=[])]))
    assert isinstance(empty, Lines) and empty.curves == [] and empty.y_ticks
    bars = drawing(BarChart(title="t", bars=[Bar(name="a", value=-1.0, text="-1"), Bar(name="b", value=0.0, text="0")]))
    assert isinstance(bars, Bars) and [bar.left for bar in bars.bars] == pytest.approx([0.0, 320.0])


def test_comparison_shows_every_part(report: TaskReport) -> None:
    for one in (report.teacher, report.student, report.baseline):
        assert one is not None
        one.scores["mismatched"] = {"accuracy": 0.5, "f1": 0.4}
    rows = comparison(report)
    assert [row.label for row in rows[:4]] == ["f1, dev", "accuracy, dev", "f1, mismatched", "accuracy, mismatched"]
    assert rows[0].ratio.replace("\u00a0", " ") == "97.1 %" and rows[0].gain == "+0.039"


def test_page_of_inherited_weights_says_how_much_was_kept(report: TaskReport, pretrained: CorpusReport) -> None:
    places = {
        "residual": KeptUnits(of=768, kept=[0, 2]),
        **{f"attention_{i}": KeptUnits(of=64, kept=[1]) for i in (1, 2)},
    }
    found = InheritedEntry(kept=places, largest_masked=0.0, cut=True, difference=1.2e-6, largest_logit=3.21)
    for one in (report, pretrained):
        one.mechanisms["pruning"] = MechanismEntry(baseline=pruning.BASELINE, data=found.model_dump())
        one.sections = [pruning.section(found)]
    for text in (page(report), corpus.page(pretrained)):
        assert ">Inherited weights</h2>" in text and ">2 of 768</td>" in text
        assert "Attention, each of 2 layers" in text and "more than 1.2e-06 (largest logit: 3.21)" in text
    assert [row[0] for row in compared.comparison(report.model_dump(mode="json")).rows][2] == "slices of the teacher"
    assert "slices of the teacher reach 0.815" in verdict(report) and ">Sliced teacher</th>" in page(report)
    tried = [
        Trial(name=f"{rate}", untrained_loss=1, untrained_score=None, loss=0.5, score=None) for rate in (1e-4, 3e-4)
    ]
    report.twin_rates = Trials(chosen="0.0003", steps=9, texts=9, tried=tried)
    for text in (page(report), card(report)):
        assert "for as many steps, at the better of two learning rates" in text


class Mirrored(Hidden):
    """A user's own term, with a name for people."""

    title = "mirrored states"
    kind: Literal["mirrored_hidden"] = "mirrored_hidden"  # type: ignore[assignment]


class Unnamed(Hidden):
    """One without; it has not that of its base class."""

    kind: Literal["unnamed_hidden"] = "unnamed_hidden"  # type: ignore[assignment]


def test_a_term_of_the_users_own_is_called_by_its_title(report: TaskReport, pretrained: CorpusReport) -> None:
    """In plan, page, card and findings; a report of a term that is not defined here goes by the kind."""
    shape = Shape("bert", 3, 32, 4, 48, 45)
    plan = ObjectivePlan([Mirrored(), Unnamed()], KINDS["classification"], shape, shape)
    assert [line for line in mapping_lines(plan) if ("-" not in line and "hidden" in line) or "mirrored" in line] == [
        "  mirrored states",
        "  unnamed hidden",
    ]
    kinds = {"mirrored_hidden": "mirrored states", "unnamed_hidden": "unnamed hidden", "lost_term": "lost term"}
    report.mapping = [MappingEntry(stage="intermediate", knowledge=kind, pairs=[(1, 2)]) for kind in kinds]
    report.stages[0].losses = {kind: [(50, 1.2), (100, 0.8)] for kind in kinds}
    pretrained.stages[0].losses = report.stages[0].losses
    pretrained.stages[0].held_out = HeldOutLosses(before=dict.fromkeys(kinds, 1.0), after=dict.fromkeys(kinds, 0.5))
    for text in (page(report), card(report), corpus.page(pretrained)):
        assert all(name in text and kind not in text for kind, name in kinds.items())
    found = one_sided("s", {kind: {"loss": 1.0, "gradient": 10.0**at} for at, kind in enumerate(kinds)})
    assert found is not None and "gradient of lost term is 100 times that of mirrored states" in found.text


# ----------------------------------------------------------------------------------------------------------- corpus


def test_page_and_card_of_a_run_on_a_corpus(pretrained: CorpusReport) -> None:
    text = corpus.page(pretrained)
    assert "A model of 4 layers x 312, distilled from its teacher on 2.0" in text
    assert "On held-out text: hidden states from 1.25 to 0.41." in text
    assert "256 instances kept out of training" in text and "pairs, at most 128 tokens" in text
    card = corpus.card(pretrained)
    assert front_matter(card)["tags"] == ["tutelage", "knowledge-distillation"]
    assert 'AutoModel.from_pretrained("path/to/this/folder")' in card
    assert "| general: hidden states loss | 1.25 | 0.41 |" in card
    pretrained.teacher, pretrained.predicts = None, "masked_lm"
    assert "trained without a teacher on 2.0" in corpus.page(pretrained)
    assert "AutoModelForMaskedLM" in corpus.card(pretrained) and "teacher" not in corpus.card(pretrained).replace(
        "without a teacher", ""
    )


# ------------------------------------------------------------------------------------------------------------- team


def cells(section: Section) -> list[list[Cell]]:
    """The table's values, without the parameters."""
    assert section.table is not None
    return [[cell for cell in row.cells if isinstance(cell, Cell)] for row in section.table.rows]


def test_the_team_says_what_each_stage_found(taught: TaskReport) -> None:
    (found,) = taught.sections
    assert found.table is not None
    assert [(group, [column.title for column in columns]) for group, columns in found.table.heads] == [
        ("", ["Parameters"]),
        ("f1", ["dev", "held-out"]),
        ("search", ["weight", "steps", "reward"]),
        ("refine", ["weight", "steps", "reward"]),
    ]
    rows = cells(found)
    assert [[cell.text for cell in row] for row in rows] == [
        ["0.880", "0.871", "0.250", "100", "−0.021", "0.100", "20", "0.1"],
        ["0.860", "0.912", "0.700", "1,100", "0.5", "0.900", "180", "0.2"],
        ["0.100", "0.200", "0.050", "50", "–", "–", "–", "–"],
    ]
    best = [[i for i, cell in enumerate(row) if cell.style == "best"] for row in rows]
    assert best == [[0], [1, 2, 4, 5, 7], []]
    assert [[cell.below for cell in row].count("dropped") for row in rows] == [0, 0, 1]
    assert rows[2][2].below == "dropped"
    assert "Dropped: noise (stage search). 2 of 3 remain." in found.paragraphs[0]
    first, second = found.notes
    assert first.startswith(
        "search: 1,250 updates of the sampling weights, 3 of them skipped for want of a usable gradient."
    )
    assert "the mean of the log-weights after step 625" in first and "final temperature 1.37" in first
    assert "mean" not in second and "temperature" not in second
    assert "f1 0.840 on the held-out examples; a constant prediction scores 0.812" in first


def test_the_team_is_drawn_to_scale(taught: TaskReport) -> None:
    (found,) = taught.sections
    for picture, stage in zip(found.pictures, team_of(taught).stages, strict=True):
        course = drawing(picture)
        assert isinstance(course, Lines) and course.level is not None
        low, *_, high = course.y_ticks
        assert low.text.strip("0.") == ""
        rise = (high.at - low.at) / float(high.text)
        places = [tuple(map(float, curve.path.split()[-1].split(","))) for curve in course.curves]
        drawn = [p for p in stage.probabilities if p > 0]
        assert places == [(course.right, pytest.approx(low.at + rise * p, abs=0.06)) for p in drawn]
        assert course.level == pytest.approx(low.at + rise / len(drawn))
        assert course.level_name == f"uniform, 1/{len(drawn)}"
        for curve in course.curves:
            assert len(curve.path.split()) <= 240
            assert curve.path.split()[0].startswith(f"{course.left}")
    last = drawing(found.pictures[1])
    assert isinstance(last, Lines) and [curve.name for curve in last.curves] == ["seed0", "seed1"]


def test_ten_of_many_teachers_have_a_line_of_their_own(taught: TaskReport) -> None:
    known = team_of(taught)
    member, record = known.members[0], known.stages[0]
    many = [member.model_copy(update={"name": f"member {i}"}) for i in range(14)]
    shares = [(i + 1) / 105 for i in range(14)]
    record.start = record.probabilities = record.next = shares
    record.draws, record.reward, record.history = [1] * 14, [None] * 14, [[1, *shares], [9, *shares]]
    (found,) = with_team(taught, TeamEntry(members=many, starts={"search": shares}, stages=[record])).sections
    assert found.table is not None
    assert [row.style for row in found.table.rows] == [None] * 4 + list(range(10))
    assert "No teacher was dropped" in found.paragraphs[0]
    text = page(taught)
    assert "4 more</li>" in text and "member 3</li>" not in text and "member 4</li>" in text
    part = text[text.index(">The team</h2>") :]
    assert part.count('<polyline class="curve grey"') == 4 and part.count('<polyline class="curve t') == 10


def test_page_of_a_team_says_whose_numbers_it_shows(taught: TaskReport) -> None:
    text = page(taught)
    assert ">The team</h2>" in text
    assert "of the teacher seed0&#39;s f1 with" in text
    assert "trained by 3 teachers. The one it is compared with is seed0." in text
    assert "without distillation the same student reaches 0.815" in text
    assert "Agreement with the teacher seed0" in text
    assert re.search(r'<td[^>]*class="derived">0.050<br/>dropped</td>', text)
    assert taught.teacher is not None
    taught.teacher.name = "/home/ann/other"
    assert "compared with is other, which is not one of them." in page(taught)


def test_stages_whose_student_is_discarded_are_told_apart(taught: TaskReport) -> None:
    assert selection(taught) == (
        "The student was scored after each epoch of stage distill, on the validation split of 367 examples "
        "(10% of train, held out), and the best epoch was kept. Each student of stages search and refine was replaced by a "
        "new one."
    )
    assert "for as many steps as stage distill," in page(taught)
    assert page(taught).count(">sampling weights</td>") == 2
    assert "| search | hidden states, embeddings | 10 | 1,000 | sampling weights |" in card(taught)


def test_the_score_of_a_constant_answer_is_not_called_by_the_metric(report: TaskReport) -> None:
    note = "the same answer to all texts is scored 0, whatever its metric"
    assert "f1 0.851" in card(report) and note not in page(report)
    report.stages[1].best, report.stages[1].scores = Best(epoch=3, score=0.0), [(1, 0.0), (2, 0.0), (3, 0.0)]
    told = "epoch 3, scored 0, as a constant answer is"
    assert told in card(report) and told in page(report) and note in page(report)
    for kind in ("tokens", "spans"):  # which look for no constant answer: their 0 is the metric
        other = report.model_copy(update={"kind": kind})
        assert outcome(other, report.stages[1]) == "epoch 3, f1 0.000"
        assert constant_note(kind, [0.0]) == "" != constant_note(report.kind, [0.0])
        section = curves(other)
        assert section is not None and note not in str(section)


def test_a_start_that_was_kept_reads_well(report: TaskReport) -> None:
    stage = report.stages[1]
    stage.best, stage.scores = Best(epoch=0, score=0.9), [(0, 0.9), (1, 0.7), (2, 0.8)]
    assert outcome(report, stage) == "the start, f1 0.900" and "the start, f1 0.900" in card(report)
    text = page(report)
    assert "the start 0.900, epoch 1 0.700, epoch 2 0.800; the best, the start, was kept" in text
    assert "The ring marks the epoch that was kept; epoch 0 is the start of the stage." in text
    assert selection(report) == (
        "The student was scored at the start and after each epoch of stage prediction, on the validation split of 367 examples "
        "(10% of train, held out), and the best of these was kept. The last epoch of stage intermediate was kept."
    )
    report.stages[0].best, report.stages[0].scores = Best(epoch=2, score=0.6), [(1, 0.5), (2, 0.6)]
    assert (
        "scored after each epoch of stages intermediate and prediction and at the start of stage prediction,"
        in selection(report)
    )


def test_the_training_of_the_baseline_is_not_the_students(report: TaskReport) -> None:
    """The student is not scored after the stage that trains the baseline, and is not made by it."""
    assert "epoch of stage prediction, on the validation split" in selection(report)
    text = card(report)
    assert "| prediction |" in text and "| labels |" not in text
    text = page(report)
    assert ">labels (without distillation)</th>" in text and ">labels</th>" not in text
    assert "labels (without distillation): f1 on the validation split" in text
    trained = report.model_copy(update={"baseline": None, "stages": report.stages[:-1]})
    assert "| prediction |" in card(trained) and ">prediction</th>" in page(trained)
    # Of a kind without labels the baseline is the student before training: every stage is the student's.
    untrained = trained.model_copy(update={"kind": "embedding", "baseline": report.baseline, "labels": []})
    assert [stage.name for stage in student_stages(untrained)] == ["intermediate", "prediction"]


def test_page_of_a_team_with_fixed_weights(taught: TaskReport) -> None:
    found = team_of(taught)
    found.stages, found.starts = [], {"distill": [1 / 3, 1 / 2, 1 / 6]}
    with_team(taught, found)
    text = page(taught)
    assert "with fixed weights: seed0 0.333, seed1 0.500 and noise 0.167." in text
    assert ">66,955,010<" not in text and ">67.0\u00a0M<" in text
    assert "dropped" not in text and "sampling weights" not in text
    assert "Teachers, with fixed weights: `seed1` 0.500, `seed0` 0.333, `noise` 0.167." in card(taught)
    found.starts = {"distill": [1 / 3] * 3}
    assert "with fixed weights: equal for all." in page(with_team(taught, found))


def test_page_without_a_team_does_not_speak_of_one(report: TaskReport) -> None:
    for told in (page(report), card(report)):
        assert "The team" not in told and "Teachers, " not in told
        assert "Gain" in told


def test_names_of_a_team_are_escaped(taught: TaskReport) -> None:
    found = team_of(taught)
    for one in found.members:
        one.name = f"<b>{one.name}</b> {HOSTILE}"
    for record in found.stages:
        record.stage += "<i>"
    with_team(taught, found)
    text = page(taught)
    tags = Tags(text)
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"b", "i", "script"})
    assert "&lt;b&gt;noise&lt;/b&gt;" in text
    body = card(taught).split("\n---\n", 1)[1]
    assert "<b>" not in body and "<script" not in body


def test_card_names_the_team_and_keeps_its_folders_to_itself(taught: TaskReport) -> None:
    taught.warnings = ["the teacher '/home/ann/team/noise' of the team would be right more often"]
    text = card(taught)
    assert "Distilled from 3 teachers with tutelage" in text and "compares it with `seed0`." in text
    assert "Teachers, with final sampling weights: `seed1` 0.900, `seed0` 0.100, `noise` 0.000." in text
    assert "the teacher 'noise' of the team" in text and "/home" not in text
    assert "base_model" not in front_matter(text)
    found = team_of(taught)
    found.members[1].folder = "org/seed1"
    with_team(taught, found)
    assert front_matter(card(taught))["base_model"] == ["org/seed1"]


# ------------------------------------------------------------------------------------------------------------- card


def test_card_has_front_matter_for_the_hub(report: TaskReport) -> None:
    tree = front_matter(card(report))
    assert tree["library_name"] == "transformers"
    assert tree["pipeline_tag"] == "text-classification"
    assert tree["base_model"] == "runs/teacher"
    assert not {"language", "license", "datasets", "widget"} & tree.keys()  # which a run does not know
    assert {"tutelage", "knowledge-distillation", "tinybert"} == set(tree["tags"])
    assert tree["metrics"] == ["accuracy", "f1"]
    (index,) = tree["model-index"]
    (result,) = index["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"f1": 0.8544, "accuracy": 0.811}


def test_card_says_how_to_load_and_what_was_measured(report: TaskReport) -> None:
    text = card(report)
    assert 'pipeline("text-classification", model="path/to/this/folder")' in text
    assert re.search(r"\| f1, dev \| 0\.880 \| 0\.854 \| 0\.815 \| 97\.1 % \| \+0\.039 \|\n\| accuracy", text)
    assert "| intermediate | hidden states, embeddings | 10 | 1,000 | last epoch |" in text
    assert "hidden states: 1 from 2, 2 from 4, 3 from 6" in text
    assert "367 examples (10% of train, held out)" in text
    assert "408 examples (dev.tsv)" in text


def test_card_cites_the_paper_of_the_method(report: TaskReport, pretrained: CorpusReport) -> None:
    report.references = [*METHODS["distilbert"]().papers, *METHODS["pkd"]().papers]
    text = card(report)
    assert text.count("@misc{") == 2 and "@misc{sanh2019,\n  title = {{DistilBERT}, a distilled" in text
    assert "eprint = {1908.09355}" in text and text.endswith("}\n```\n")
    report.references = [Paper(text="Somebody, 2030"), Paper(text="Someone, 2030", arxiv="3001.00001")]
    assert "Citation" not in card(report)
    pretrained.references = METHODS["tinybert"]().papers
    assert "@misc{jiao2019," in corpus.card(pretrained)
    for make in METHODS.values():  # every paper with a number is cited, and braces are closed
        for paper in make().papers:
            assert "arXiv" not in paper.text
            entry = bibtex([paper])
            assert (f"eprint = {{{paper.arxiv}}}" in entry) == (paper.arxiv is not None)
            assert entry.count("{") == entry.count("}")


def test_card_without_teacher(alone: TaskReport) -> None:
    tree = front_matter(card(alone))
    assert "base_model" not in tree and tree["tags"] == ["tutelage"]
    assert "teacher" not in card(alone).replace("without a teacher", "")


def test_card_and_page_keep_home_folders_to_themselves(report: TaskReport) -> None:
    assert report.teacher is not None
    report.teacher.name, report.student.name = "/home/ann/teacher", "/home/ann/runs/student"
    text = card(report)
    assert "/home" not in text and "/home" not in page(report)
    assert "base_model" not in front_matter(text)


def test_card_of_regression_asks_for_the_bare_number(report: TaskReport) -> None:
    report.kind, report.labels = "regression", []
    assert 'function_to_apply="none"' in card(report)


def test_card_shows_names_as_they_are(hostile: TaskReport) -> None:
    text = card(hostile)
    tree = front_matter(text)
    assert "base_model" not in tree
    assert "\n" not in tree["model-index"][0]["name"]
    body = text.split("\n---\n", 1)[1]
    assert "\n---\n" not in body and "{{ 7 \\* 7 }}" in body
    # Raw only in the string of the Python lines.
    outside = re.sub(r"```python\n.*?\n```", "", body, flags=re.DOTALL)
    assert "<script" not in outside
