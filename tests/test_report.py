"""The page and the card: what they say of good and of bad runs, and that names cannot break them."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from tutelage.report.card import card
from tutelage.report.numbers import count_text, flops_text, milliseconds, percent, score_text, seconds_text
from tutelage.report.page import comparison, page, selection
from tutelage.report.pictures import loss_charts, score_charts
from tutelage.report.team import section
from tutelage.report.words import caution, verdict

HOSTILE = "<script>alert(1)</script>\"'|`[a](javascript:b)</title>\n---\n# {{ 7 * 7 }}"
Report = dict[str, Any]


def entry(name: str, f1: float, accuracy: float, parameters: int, flops: float, one: float, many: float) -> Report:
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
def report() -> Report:
    student = entry("runs/mrpc/student", 0.8544, 0.811, 10_713_986, 4.5e8, 4.4, 80.1)
    return {
        "tutelage": "0.1.0",
        "method": "tinybert",
        "title": "TinyBERT",
        "paper": "Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351",
        "task": "mrpc",
        "kind": "classification",
        "metric": "f1",
        "labels": ["not_equivalent", "equivalent"],
        "data": {
            "train": 3301,
            "unlabeled": 0,
            "selection": 367,
            "report": 408,
            "sources": {"train": "train.tsv", "selection": "10% of train, held out", "report": "dev.tsv"},
            "truncated": {"train": 3, "dev": 0},
            "mean_length": 53.2,
        },
        "teacher": entry("runs/teacher", 0.88, 0.832, 22_713_986, 1.1e9, 9.1, 160.2),
        "student": {**student, "retention": 0.8544 / 0.88, "speedup": 2.0, "agreement": 0.93, "bytes": 41_234_567},
        "baseline": entry("without teacher", 0.815, 0.76, 10_713_986, 4.5e8, 4.4, 80.0),
        "mapping": [
            {"stage": "intermediate", "knowledge": "embeddings", "pairs": [[0, 0]]},
            {"stage": "intermediate", "knowledge": "hidden", "pairs": [[1, 2], [2, 4], [3, 6]]},
        ],
        "teacher_layers": 6,
        "student_layers": 3,
        "stages": [
            {
                "name": "intermediate",
                "epochs": 10,
                "steps": 1000,
                "seconds": 61.2,
                "best": None,
                "losses": {"hidden": [[50, 1.2], [100, 0.8]], "embeddings": [[50, 0.012], [100, 0.004]]},
                "scores": [],
            },
            {
                "name": "prediction",
                "epochs": 3,
                "steps": 312,
                "seconds": 340.1,
                "best": {"epoch": 2, "score": 0.851},
                "losses": {"soft_labels": [[104, 0.6], [312, 0.3]]},
                "scores": [[1, 0.81], [2, 0.851], [3, 0.849]],
            },
        ],
        "warnings": ["3 texts of train were longer than 512 tokens and were cut"],
        "environment": {
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "device": "cpu",
            "threads": 2,
            "precision": "fp32",
        },
        "seed": 0,
        "seconds": 410.5,
    }


@pytest.fixture
def alone(report: Report) -> Report:
    """A fine-tuned model: no teacher, no baseline, nothing to compare with."""
    del report["student"]["retention"], report["student"]["speedup"]
    report["student"]["agreement"] = None
    return report | {"teacher": None, "baseline": None, "mapping": [], "teacher_layers": None}


@pytest.fixture
def team(report: Report) -> Report:
    """Three teachers, of which the first of two stages has dropped one; a new student began after each."""
    members = [
        {
            "name": name,
            "folder": f"/home/ann/team/{name}",
            "shape": "6 layers x 768, 12 heads, intermediate 3072",
            "parameters": parameters,
            "scores": {"held": {"f1": held, "accuracy": 0.5}, "dev": {"f1": dev, "accuracy": 0.5}},
        }
        for name, parameters, held, dev in (
            ("seed0", 109_482_240, 0.871, 0.88),
            ("seed1", 66_955_010, 0.912, 0.86),
            ("noise", 109_482_240, 0.2, 0.1),
        )
    ]
    search = {
        "stage": "search",
        "start": [1 / 3, 1 / 3, 1 / 3],
        "probabilities": [0.25, 0.7, 0.05],
        "next": [0.263, 0.737, 0.0],
        "kept": ["seed0", "seed1"],
        "draws": [100, 1100, 50],
        "reward": [-0.021, 0.5, None],
        "updates": 1250,
        "skipped": 3,
        "settled": 625,
        "temperature": 1.374,
        "history": [[i, 1 / 3 - i / 15000, 1 / 3 + i / 3409, 17 / 60 - i / 5357] for i in range(2, 1251, 4)]
        + [[1250, 0.25, 0.7, 0.05]],
        "score": 0.84,
        "constant": 0.812,
    }
    refine = search | {
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
    report["teacher"]["name"] = "/home/ann/team/seed0"
    report["data"]["held"] = 367
    first, last = report["stages"]
    report["stages"] = [
        first | {"name": "search", "discarded": True},
        first | {"name": "refine", "discarded": True},
        last | {"name": "distill", "discarded": False},
        last | {"name": "labels", "discarded": False},
    ]
    starts = {"search": search["start"], "refine": refine["start"], "distill": refine["next"]}
    return report | {"mapping": [], "team": {"members": members, "starts": starts, "stages": [search, refine]}}


@pytest.fixture
def hostile(report: Report) -> Report:
    """Every text in the report, and every key that comes from a name, is an attack."""

    def spoilt(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: spoilt(value, name) for name, value in node.items()}
        if isinstance(node, list):
            return [spoilt(value, key) for value in node]
        return HOSTILE if isinstance(node, str) and key not in ("metric", "kind", "knowledge") else node

    result: Report = spoilt(report)
    for who in ("teacher", "student", "baseline"):
        result[who]["scores"] = {HOSTILE: result[who]["scores"]["dev"]}
    result["data"]["truncated"] = {HOSTILE: 1}
    result["stages"][0]["losses"] = {HOSTILE: [[1, 1.0], [2, 0.5]]}
    return result


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
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def front_matter(text: str) -> Report:
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


def test_verdict_of_a_good_run(report: Report) -> None:
    assert verdict(report).replace("\u00a0", " ") == (
        "The student keeps 97.1 % of the teacher's f1 with 2.1x fewer parameters and runs 2.0x faster at batch 32; "
        "without the teacher the same student reaches 0.815, 0.039 less."
    )
    assert caution(report) is None


@pytest.mark.parametrize(("reached", "words"), [(0.8601, "0.860, 0.006 more"), (0.8541, "0.854, just as much")])
def test_verdict_where_distillation_did_not_pay(report: Report, reached: float, words: str) -> None:
    report["baseline"]["score"] = reached
    assert verdict(report).endswith(
        f"; distillation did not pay here: without the teacher the same student reaches {words}."
    )
    assert "did not pay" in page(report)
    assert "did not pay" in card(report)


def test_verdict_of_a_poor_slow_large_student(report: Report) -> None:
    report["student"] |= {"retention": 0.6, "speedup": 0.5, "parameters": 45_427_972}
    text = verdict(report)
    assert "keeps only 60.0" in text
    assert "with 2.0x more parameters but runs 2.0x slower at batch 32" in text


def test_verdict_of_a_student_above_its_teacher(report: Report) -> None:
    report["student"] |= {"score": 0.9, "retention": 0.9 / 0.88}
    assert verdict(report).startswith("The student beats the teacher's f1 (0.900 against 0.880) with")


def test_verdict_without_ratios(report: Report) -> None:
    report["student"] |= {"retention": None, "speedup": None, "agreement": None}
    assert verdict(report).startswith(
        "The student reaches f1 0.854 against the teacher's 0.880, with 2.1x fewer parameters;"
    )


def test_a_gain_within_the_error_of_the_score_is_called_so(report: Report) -> None:
    report["baseline"]["score"] = 0.85
    remark = caution(report)
    assert remark is not None
    assert "0.004" in remark and "408 examples (about 0.017)" in remark
    assert "another seed may turn it round" in page(report)


# ------------------------------------------------------------------------------------------------------------- page


def test_page_needs_nothing_but_itself(report: Report) -> None:
    text = page(report)
    assert text.startswith("<!doctype html>")
    assert "http" not in text
    assert "url(" not in text and "@import" not in text
    for tag, attributes in Tags(text).found:
        assert tag not in ("script", "link", "img", "iframe", "object", "image", "use")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


@pytest.mark.parametrize("which", ["report", "team"])
def test_page_is_well_formed_and_accessible(which: str, request: pytest.FixtureRequest) -> None:
    tags = Tags(page(request.getfixturevalue(which)))
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


def test_page_answers_in_order(report: Report) -> None:
    text = page(report)
    places = [
        text.index(words)
        for words in (
            'class="verdict"',
            "2.1x fewer</td>",
            "Score: f1",
            "layers that are compared",
            "loss of hidden states",
            "on the selection data",
            "10% of train, held out",
            "were cut</li>",
            "2.13.0",
            "tutelage run config.yaml",
        )
    ]
    assert places == sorted(places)


def test_page_escapes_every_name(hostile: Report) -> None:
    tags = Tags(page(hostile))
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "img", "iframe"})
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert "<script" not in page(hostile)
    assert "{{ 7 * 7 }}" in page(hostile)


def test_page_without_teacher_and_baseline(alone: Report) -> None:
    text = page(alone)
    assert "Trained without a teacher, the model reaches f1 0.854" in text
    assert "Student to teacher" not in text and "Gain by" not in text
    assert Tags(text).open == []


def test_page_without_baseline(report: Report) -> None:
    report["baseline"] = None
    text = page(report)
    assert "Student to teacher" in text and "Gain by" not in text
    assert "without the teacher" not in verdict(report)


def test_page_draws_odd_numbers(report: Report) -> None:
    odd = copy.deepcopy(report)
    odd["metric"], odd["kind"] = "mcc", "classification"
    for who, value in (("teacher", 0.0), ("student", -0.2), ("baseline", float("nan"))):
        odd[who] |= {"score": value, "scores": {"dev": {"mcc": value}}}
    odd["stages"][0]["losses"] = {
        "hidden": [[i, 1 / i] for i in range(1, 5000)],
        "embeddings": [[1, 0.0], [2, 0.0]],
        "labels": [],
        "soft_labels": [[1, 3e-9], [2, 1e-9]],
    }
    odd["stages"][1]["scores"] = [[1, 0.5], [2, 0.5]]
    assert Tags(page(odd)).open == []
    charts = loss_charts(odd)
    assert [len(chart.points) for chart in charts] == [pytest.approx(240, abs=10), 2, 2, 2]
    for chart in [*charts, *score_charts(odd)]:
        for x, y in chart.points:
            assert chart.left - 0.01 <= x <= chart.right + 0.01 and chart.top - 0.01 <= y <= chart.bottom + 0.01


def test_comparison_shows_every_part(report: Report) -> None:
    for who in ("teacher", "student", "baseline"):
        report[who]["scores"]["mismatched"] = {"accuracy": 0.5, "f1": 0.4}
    rows = comparison(report)
    assert [row["label"] for row in rows[:4]] == ["f1, dev", "accuracy, dev", "f1, mismatched", "accuracy, mismatched"]
    assert rows[0]["ratio"].replace("\u00a0", " ") == "97.1 %" and rows[0]["gain"] == "+0.039"


# ------------------------------------------------------------------------------------------------------------- team


def test_the_team_says_what_each_stage_found(team: Report) -> None:
    found = section(team, "f1")
    assert found is not None
    assert found.heads == [
        ("f1", ["dev", "held out"]),
        ("search", ["probability", "draws", "reward"]),
        ("refine", ["probability", "draws", "reward"]),
    ]
    assert [[cell.text for cell in row.cells] for row in found.rows] == [
        ["0.880", "0.871", "0.250", "100", "−0.021", "0.100", "20", "0.1"],
        ["0.860", "0.912", "0.700", "1,100", "0.5", "0.900", "180", "0.2"],
        ["0.100", "0.200", "0.050", "50", "–", "–", "–", "–"],
    ]
    best = [[i for i, cell in enumerate(row.cells) if cell.best] for row in found.rows]
    assert best == [[0], [1, 2, 4, 5, 7], []]
    assert [[cell.dropped for cell in row.cells].count(True) for row in found.rows] == [0, 0, 1]
    assert found.rows[2].cells[2].dropped
    assert "Dropped: noise (stage search). 2 of 3 are left." in found.words
    assert found.notes[0].startswith("search: 1,250 updates of the distribution, 3 of them without a usable gradient.")
    assert "the mean of its log-weights after step 625" in found.notes[0] and "1.37 at last" in found.notes[0]
    assert "mean" not in found.notes[1] and "temperature" not in found.notes[1]
    assert "f1 0.840 on the held-out examples, where a constant answer has 0.812" in found.notes[0]


def test_the_team_is_drawn_to_scale(team: Report) -> None:
    found = section(team, "f1")
    assert found is not None
    for course, record in zip(found.courses, team["team"]["stages"], strict=True):
        low, *_, high = course.frame.y_ticks
        assert low.text.strip("0.") == ""
        rise = (high.at - low.at) / float(high.text)
        places = [tuple(map(float, curve.path.split()[-1].split(","))) for curve in course.curves]
        drawn = [p for p in record["probabilities"] if p > 0]
        assert places == [(course.frame.right, pytest.approx(low.at + rise * p, abs=0.06)) for p in drawn]
        assert course.level == pytest.approx(low.at + rise / len(drawn))
        assert course.alike == f"1/{len(drawn)}"
        for curve in course.curves:
            assert len(curve.path.split()) <= 240
            assert curve.path.split()[0].startswith(f"{course.frame.left}")
    assert [curve.name for curve in found.courses[1].curves] == ["seed0", "seed1"]


def test_ten_of_many_teachers_have_a_line_of_their_own(team: Report) -> None:
    members, (record, _) = team["team"]["members"], team["team"]["stages"]
    many = [members[0] | {"name": f"member {i}"} for i in range(14)]
    shares = [(i + 1) / 105 for i in range(14)]
    record |= dict.fromkeys(("start", "probabilities", "next"), shares)
    record |= {"draws": [1] * 14, "reward": [None] * 14, "history": [[1, *shares], [9, *shares]]}
    team["team"] = {"members": many, "starts": {"search": shares}, "stages": [record]}
    found = section(team, "f1")
    assert found is not None
    assert [row.style for row in found.rows] == [None] * 4 + list(range(10))
    assert "No teacher was dropped" in found.words
    text = page(team)
    assert "4 more</li>" in text and "member 3</li>" not in text and "member 4</li>" in text
    assert text.count('<polyline class="curve grey"') == 4 and text.count('<polyline class="curve t') == 10


def test_page_of_a_team_says_whose_numbers_it_shows(team: Report) -> None:
    text = page(team)
    assert '<h2 id="team">The team</h2>' in text
    assert "of the teacher seed0&#39;s f1 with" in text
    assert "compared with is <code>seed0</code>." in text
    assert "without the team the same student reaches 0.815" in text
    assert "Gain by the team" in text and "Predicts as the teacher seed0 does" in text
    assert re.search(r'<td[^>]*class="derived">0.050<br/>dropped</td>', text)
    team["teacher"]["name"] = "/home/ann/other"
    assert "<code>other</code>, which is not among them." in page(team)


def test_stages_whose_student_is_discarded_are_told_apart(team: Report) -> None:
    assert selection(team) == (
        "After each epoch of the stages distill and labels the student was scored on 367 examples (10% of train, held out), "
        "and the best epoch was kept; the students of the stages search and refine made way for a new one after each."
    )
    assert "for as many steps as the stage distill took" in page(team)
    assert page(team).count(">only the team&#39;s distribution</td>") == 2
    assert "| search | hidden states, embeddings | 10 | 1,000 | only the team's distribution |" in card(team)


def test_page_of_a_team_that_was_not_weighed(team: Report) -> None:
    team["team"] |= {"stages": [], "starts": {"distill": [1 / 3, 1 / 2, 1 / 6]}}
    text = page(team)
    assert "set beforehand, and not learnt: seed0 0.333, seed1 0.500 and noise 0.167." in text
    assert ">66,955,010<" not in text and ">67.0\u00a0M<" in text
    assert "dropped" not in text and "how often each teacher is drawn" not in text
    assert "Team, weighed as set beforehand: `seed1` 0.500, `seed0` 0.333, `noise` 0.167." in card(team)
    team["team"]["starts"] = {"distill": [1 / 3] * 3}
    assert "not learnt: all alike." in page(team)


def test_page_without_a_team_does_not_speak_of_one(report: Report) -> None:
    for told in (page(report | {"team": None}), page(report), card(report)):
        assert "The team" not in told and "Team, " not in told
        assert "Gain by the teacher" in told


def test_names_of_a_team_are_escaped(team: Report) -> None:
    for one in team["team"]["members"]:
        one["name"] = f"<b>{one['name']}</b> {HOSTILE}"
    for record in team["team"]["stages"]:
        record["stage"] += "<i>"
    text = page(team)
    tags = Tags(text)
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"b", "i", "script"})
    assert "&lt;b&gt;noise&lt;/b&gt;" in text
    body = card(team).split("\n---\n", 1)[1]
    assert "<b>" not in body and "<script" not in body


def test_card_names_the_team_and_keeps_its_folders_to_itself(team: Report) -> None:
    team["warnings"] = ["the teacher '/home/ann/team/noise' of the team would be right more often"]
    text = card(team)
    assert "A student of a team of 3 teachers, compared below with `seed0`, made" in text
    assert "Team, and how likely each is drawn in the end: `seed1` 0.900, `seed0` 0.100; dropped: `noise`." in text
    assert "the teacher 'noise' of the team" in text and "/home" not in text
    assert "base_model" not in front_matter(text)
    team["team"]["members"][1]["folder"] = "org/seed1"
    assert front_matter(card(team))["base_model"] == ["org/seed1"]


# ------------------------------------------------------------------------------------------------------------- card


def test_card_has_front_matter_for_the_hub(report: Report) -> None:
    tree = front_matter(card(report))
    assert tree["library_name"] == "transformers"
    assert tree["pipeline_tag"] == "text-classification"
    assert tree["base_model"] == "runs/teacher"
    assert tree["language"] == "en"
    assert {"tutelage", "knowledge-distillation", "tinybert"} == set(tree["tags"])
    assert tree["metrics"] == ["accuracy", "f1"]
    (index,) = tree["model-index"]
    (result,) = index["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"f1": 0.8544, "accuracy": 0.811}


def test_card_says_how_to_load_and_what_was_measured(report: Report) -> None:
    text = card(report, language="de")
    assert front_matter(text)["language"] == "de"
    assert 'pipeline("text-classification", model="runs/mrpc/student")' in text
    assert re.search(r"\| f1, dev \| 0\.880 \| 0\.854 \| 0\.815 \| 97\.1 % \| \+0\.039 \|\n\| accuracy", text)
    assert "| intermediate | hidden states, embeddings | 10 | 1,000 | last epoch |" in text
    assert "hidden states: 1 from 2, 2 from 4, 3 from 6" in text
    assert "367 examples (10% of train, held out)" in text
    assert "408 examples (dev.tsv)" in text


def test_card_without_teacher(alone: Report) -> None:
    tree = front_matter(card(alone))
    assert "base_model" not in tree and tree["tags"] == ["tutelage"]
    assert "teacher" not in card(alone).replace("without a teacher", "")


def test_card_keeps_home_folders_to_itself(report: Report) -> None:
    report["teacher"]["name"], report["student"]["name"] = "/home/ann/teacher", "/home/ann/runs/student"
    text = card(report)
    assert "/home" not in text
    assert "base_model" not in front_matter(text)


def test_card_of_regression_asks_for_the_bare_number(report: Report) -> None:
    report |= {"kind": "regression", "labels": []}
    assert 'function_to_apply="none"' in card(report)


def test_card_shows_names_as_they_are(hostile: Report) -> None:
    text = card(hostile)
    tree = front_matter(text)
    assert "base_model" not in tree
    assert "\n" not in tree["model-index"][0]["name"]
    body = text.split("\n---\n", 1)[1]
    assert "\n---\n" not in body and "{{ 7 \\* 7 }}" in body
    # Raw only in the string of the Python lines.
    outside = re.sub(r"```python\n.*?\n```", "", body, flags=re.DOTALL)
    assert "<script" not in outside
