"""A study's runs, resume and intervals; runs are real ones on a handful of texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.finetune import finetune
from tutelage.methods.kd import kd
from tutelage.recipes.config import RunConfig
from tutelage.students.specs import Copied
from tutelage.studies import pages
from tutelage.studies import study as studies
from tutelage.studies.plot import Plot, side_by_side
from tutelage.studies.script import Script, once, settings, write_rows
from tutelage.studies.study import FILE, Outcome, Study, interval, paired, study


@pytest.fixture
def arms(teacher_folder: Path) -> dict[str, RunConfig]:
    data = DataConfig(train=str(teacher_folder / "train.csv"), dev=str(teacher_folder / "dev.csv"))
    found = {}
    for name, recipe in (("labels, alone", finetune(lr=1e-3)), ("kd", kd(lr=1e-3))):
        stages = [recipe.stages[0].model_copy(update={"epochs": 1, "max_steps": 3})]
        recipe = recipe.model_copy(update={"student": Copied(layers=1, choose="first"), "stages": stages})
        found[name] = RunConfig(recipe=recipe, teacher=str(teacher_folder / "teacher"), data=data, baseline=False)
    return found


class Killed(BaseException):
    """As a signal would end the process."""


def test_a_study_killed_between_runs_goes_on(arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished runs are not repeated; results equal those of a study that was not interrupted."""
    made: list[str] = []
    carry_out = studies.run

    def counted(config: RunConfig, **how):
        if len(made) == 3:
            raise Killed
        made.append(str(config.out))
        return carry_out(config, **how)

    monkeypatch.setattr(studies, "run", counted)
    with pytest.raises(Killed):
        study(tmp_path, arms, (0, 1), quiet=True)
    names = [Path(out).name for out in made]
    assert names == ["labels_alone-0", "kd-0", "labels_alone-1"]  # seeds are the outer loop
    assert [o.arm for o in Study.model_validate_json((tmp_path / FILE).read_text()).outcomes] == [
        "labels, alone",
        "kd",
        "labels, alone",
    ]
    made.clear()
    found = study(tmp_path, arms, (0, 1), keep=lambda _, report: {"method": report["method"]}, quiet=True)
    assert [Path(out).name for out in made] == ["kd-1"]
    assert [outcome.more for outcome in found.outcomes] == [{}, {}, {}, {"method": "kd"}]
    assert Study.model_validate_json((tmp_path / FILE).read_text()) == found
    for outcome in found.outcomes:
        report = json.loads((tmp_path / f"{studies.folder_name(outcome.arm)}-{outcome.seed}/report.json").read_text())
        assert outcome.scores == next(iter(report["student"]["scores"].values())) and outcome.steps == 3
    monkeypatch.setattr(studies, "run", None)  # nothing is left to run
    assert study(tmp_path, arms, (0, 1), quiet=True) == found


def test_the_arms_of_a_study_share_their_texts(arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"stages": [{"steps": 3}], "seconds": 1.0}
    read = list[DataConfig]()
    monkeypatch.setattr(studies, "load_data", read.append)
    monkeypatch.setattr(studies, "run", lambda config, read, **how: read(config.data) or report)
    study(tmp_path, arms, (0, 1), quiet=True)
    assert read == [arms["kd"].data]


def test_a_study_of_two_processes_is_that_of_one(arms, tmp_path: Path) -> None:
    """Each process runs its part and collects what the other has finished; only the whole study is written."""
    first = study(tmp_path, arms, (0,), part=(0, 2), quiet=True)
    assert [outcome.arm for outcome in first.outcomes] == ["labels, alone"] and not (tmp_path / FILE).exists()
    second = study(tmp_path, arms, (0,), part=(1, 2), quiet=True)
    assert [outcome.arm for outcome in second.outcomes] == ["labels, alone", "kd"]
    whole = study(tmp_path, arms, (0,), quiet=True)
    assert whole == second and (tmp_path / FILE).exists()


def test_a_changed_setting_is_refused(arms, tmp_path: Path) -> None:
    study(tmp_path, {"kd": arms["kd"]}, (0,), quiet=True)
    before = (tmp_path / FILE).read_text()
    stage = arms["kd"].recipe.stages[0].model_copy(update={"lr": 2e-3})
    recipe = arms["kd"].recipe.model_copy(update={"stages": [stage]})
    changed = {**arms, "kd": arms["kd"].model_copy(update={"recipe": recipe})}
    with pytest.raises(TutelageError, match="has arm 'kd' with seed 0 and other settings; give the settings") as error:
        study(tmp_path, changed, (0,), quiet=True)
    assert "\n" not in str(error.value)
    assert (tmp_path / FILE).read_text() == before and not (tmp_path / "labels_alone-0").exists()  # before anything ran
    assert studies.digest(changed["kd"]) != studies.digest(arms["kd"])
    assert studies.digest(arms["kd"].model_copy(update={"out": "elsewhere"})) == studies.digest(arms["kd"])


def made_up(arm: str, values: dict[int, float]) -> list[Outcome]:
    return [
        Outcome(arm=arm, seed=s, settings="0", metric="f1", scores={"f1": v, "accuracy": v / 2}, steps=1, seconds=1.0)
        for s, v in values.items()
    ]


def test_paired_intervals_are_scipys() -> None:
    """Against the confidence interval of SciPy's paired t-test, over the seeds that both arms have."""
    generator = np.random.default_rng(0)
    ours, theirs = (dict(enumerate(generator.normal(0.8, 0.02, 6))) for _ in range(2))
    del theirs[2]
    found = Study(outcomes=made_up("a", ours) + made_up("b", theirs))
    common = [seed for seed in ours if seed in theirs]
    test = stats.ttest_rel([ours[s] for s in common], [theirs[s] for s in common])
    low, high = test.confidence_interval(0.95)
    difference = found.difference("a", "b")
    assert difference is not None and difference.half is not None
    assert difference.mean - difference.half == pytest.approx(
        low
    ) and difference.mean + difference.half == pytest.approx(high)
    half = found.difference("a", "b", "accuracy")
    assert half is not None and half.mean == pytest.approx(difference.mean / 2)
    assert found.difference("a", "none") is None and paired(ours, {}) == []
    assert interval([0.5]) == (0.5, None)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.1, 0.11, 0.12], "held (+0.110 ± 0.025, 3 seeds)"),
        ([-0.1, -0.11, -0.12], "did not hold (-0.110 ± 0.025, 3 seeds)"),
        ([0.1, -0.1, 0.05], "inside the noise (+0.017 ± 0.259, 3 seeds)"),
        ([0.1], "+0.100 in one seed, which says nothing about noise"),
    ],
)
def test_a_claim_is_judged_by_its_interval(differences: list[float], words: str) -> None:
    assert pages.judged("a is better", differences) == f"a is better: {words}"
    assert pages.judged("a is better", []) == "" and pages.shown([]) == "-"
    assert pages.claims([("a is better", differences), ("b is better", [])]) == [f"* a is better: {words}"]


def test_a_table_and_a_plot() -> None:
    assert pages.table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |", ""]
    columns = {"a": "{a}", "b": lambda row: f"{row['a'] + 1}"}
    assert pages.tabled(columns, [{"a": 1}]) == pages.table(["a", "b"], [["1", "2"]])
    plot = Plot("loss & time", (1, 1000), (0, 2), x_label="steps", y_step=0.5, size=(564, 384), right=20)
    assert plot.at(1, 0) == (64, 340) and plot.at(1000, 2) == (544, 40) and plot.at(10, 1) == (224, 190)
    plot.dot(10, 1, "#000", "<b>")
    whole = side_by_side([plot, plot])
    assert whole.count("loss &amp; time") == 2 and "<b>" not in whole and 'viewBox="0 0 1128 384"' in whole
    assert plot.svg.count("<polyline") == 4 + 5  # powers of ten, and steps of a half


TEMPLATE = """# Scores

The best of {count} is {best:.2f},
in {settings[epochs]} epochs.

{rows}

{nothing}

    {command}
"""


LONGEST = 9
"""A constant, which a template may name."""


def test_a_template_is_filled_and_wrapped(tmp_path: Path) -> None:
    """Fields have formats; paragraphs are wrapped, commands are not; empty blocks leave no gap."""
    (tmp_path / "page.md").write_text(TEMPLATE + "\n" + "a word " * 30)
    command = "python x.py " + "--option value " * 12
    page = pages.filled(
        tmp_path / "page.md", count=2, best=0.5, settings={"epochs": 3}, rows=["| a |", ""], nothing=[], command=command
    )
    blocks = page.split("\n\n")
    assert blocks[:3] == ["# Scores", "The best of 2 is 0.50, in 3 epochs.", "| a |"]
    assert blocks[3] == "    " + command
    assert blocks[4].split() == ["a", "word"] * 30
    assert [len(line) <= 120 for line in blocks[4].split("\n")] == [True, True, True]
    assert page.endswith("word\n")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Neither a part of the results nor a file of texts."""
    for score in (1, 2):
        assert once(tmp_path / "a" / "found.json", lambda score=score: {"score": score}) == {"score": 1}
    for rows in ([("one, two", "a")], [("other", "b")]):
        write_rows(tmp_path / "texts.csv", rows)
    assert (tmp_path / "texts.csv").read_text().splitlines() == ["text,label", '"one, two",a']


def test_a_script_writes_its_page_from_finished_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """``--finished`` makes the same page from the results, and measures nothing; a mistake ends the script with its message."""
    (tmp_path / "scores.py").write_text("")
    (tmp_path / "scores.md").write_text(TEMPLATE + "\nOf {LONGEST} epochs.\n")
    tool = Script(str(tmp_path / "scores.py"), "Scores.", "scores", "--data-dir d", epochs=3)
    tool.add_argument("--data-dir")
    tool.add_argument("--arms", default="a;b")

    measured = []

    def measure(arguments):
        measured.append(arguments)
        for best in (0.25, 0.5):
            yield {"settings": settings(arguments), "best": best}
        if arguments.data_dir == "nowhere":
            raise TutelageError("no data in 'nowhere'")

    def page(results):
        return {**results, "count": 2, "rows": [], "nothing": []}

    def conduct(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["scores.py", *arguments, "--out", str(tmp_path / "made" / "r.json")])
        tool.conduct(measure, page, name="{}_page", pictures=lambda results: {"a.svg": str(results["best"])})
        return (tmp_path / "made" / "r_page.md").read_text()

    made = conduct("--epochs", "2", "--arms", "a; c", "--data-dir", "d")
    assert json.loads((tmp_path / "made" / "r.json").read_text())["settings"] == {"epochs": 2, "arms": "a; c"}
    assert made == (
        "# Scores\n\nThe best of 2 is 0.50, in 2 epochs.\n\n"
        f"    python {tmp_path.name}/scores.py --data-dir d --epochs 2 --arms 'a; c' --out {tmp_path}/made/r.json\n\nOf 9 epochs.\n"
    )
    assert (tmp_path / "made" / "a.svg").read_text() == "0.5"
    count = len(measured)
    assert conduct("--finished") == made
    assert len(measured) == count
    with pytest.raises(SystemExit) as end:
        conduct("--data-dir", "nowhere")
    assert end.value.code == 1
    assert capsys.readouterr().err == "no data in 'nowhere'\n"
