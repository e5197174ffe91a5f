"""A student within limits: shapes are timed, the best is trained and exported, and what does not fit is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_model, write_csv

from tutelage import api, cli
from tutelage.api.common import amount
from tutelage.errors import TutelageError
from tutelage.report.quality import Difference
from tutelage.report.shrink import Form, Limits, ShapeEntry, Shrink, Trained, page
from tutelage.run import served
from tutelage.students.specs import Copied, Pruned
from tutelage.studies import shrink as study
from tutelage.studies.shrink import ROOM, _nothing_fits, _verdict, names, share_at_the_limits, student_of
from tutelage.tasks import load as loading

SETTINGS: dict[str, Any] = {"quiet": True, "min_retention": 0.1}


@pytest.fixture
def task(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A teacher of two layers that is somewhat right, and few shapes."""
    monkeypatch.setattr(served, "missing", list)
    monkeypatch.setattr(study, "SHARES", (0.5,))
    monkeypatch.setattr(study, "DEPTHS", (0.5,))
    model = tiny_model(layers=2)
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    write_csv(tmp_path / "train.csv", 120, 1)
    write_csv(tmp_path / "dev.csv", 60, 2)
    data = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")}
    monkeypatch.setattr(served, "missing", lambda: ["not for the teacher"])
    api.finetune(str(tmp_path / "start"), tmp_path / "teacher", epochs=12, lr=3e-3, quiet=True, **data)
    monkeypatch.setattr(served, "missing", list)
    return data


@pytest.mark.slow
def test_a_student_within_limits_is_trained_exported_and_remembered(
    task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, teacher = tmp_path / "out", str(tmp_path / "teacher")
    sizes = study.speed.count_parameters(tiny_model(layers=2))
    found = api.shrink(teacher, out, max_parameters=sizes - 1, **SETTINGS, **task)
    assert {shape.name for shape in found.shapes} == {"flops=0.5", "layers=1"}
    assert [form.form for form in found.forms] == ["pytorch", "onnx", "int8"]
    assert all(shape.ms > 0 and shape.loss is not None and not shape.exceeds for shape in found.shapes)
    best = min(found.shapes, key=lambda shape: shape.loss or 0.0)
    assert found.answer == best.name == found.trained[0].name and found.passed
    assert (out / "served" / "model.int8.onnx").stat().st_size == found.trained[0].bytes
    assert found.answer in found.verdict and (out / "shrink.html").exists()
    # The finished search is read, not repeated; other limits are another search.
    monkeypatch.setattr(study, "TaskRun", None)
    assert api.shrink(teacher, out, max_parameters=sizes - 1, **SETTINGS, **task) == found
    # An export that was moved away is made again, and a folder that was moved names its own.
    (out / "served").rename(tmp_path / "elsewhere")
    assert api.shrink(teacher, out, max_parameters=sizes - 1, **SETTINGS, **task).folder == str(out / "served")
    assert (out / "served" / "model.int8.onnx").is_file()
    moved = shutil.copytree(out, tmp_path / "moved")
    again = api.shrink(teacher, moved, max_parameters=sizes - 1, **SETTINGS, **task)
    assert again == found.model_copy(update={"folder": str(moved / "served")})
    with pytest.raises(TutelageError, match="holds a search with other settings"):
        api.shrink(teacher, out, max_parameters=sizes - 2, **SETTINGS, **task)


@pytest.mark.slow
def test_a_teacher_within_limits_needs_no_student(task: dict[str, str], tmp_path: Path) -> None:
    found = api.shrink(str(tmp_path / "teacher"), tmp_path / "out", max_latency="10s", **SETTINGS, **task)
    assert found.answer == "teacher" and not found.trained and "No student was trained" in found.verdict
    assert (tmp_path / "out" / "served" / "model.int8.onnx").exists()


@pytest.mark.slow
def test_impossible_limits_end_before_training(task: dict[str, str], tmp_path: Path) -> None:
    found = api.shrink(str(tmp_path / "teacher"), tmp_path / "out", max_size="1kB", **SETTINGS, **task)
    assert not found.passed and not found.trained and "MB of 0.001 MB" in found.verdict
    assert not (tmp_path / "out" / "runs").exists()


def test_a_limit_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["shrink", "--teacher", "t", "--out", str(tmp_path / "o"), "--task", "sst2"])
    assert "there is no limit to meet" in capsys.readouterr().err


def test_the_data_are_read_once(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To know their kind, and for the search."""
    read, load_files = list[str](), loading.load_files

    class Enough(Exception):
        """All that is read has been read."""

    def counting(config: Any, *more: Any) -> Any:
        read.append(config.train)
        return load_files(config, *more)

    def costs(*given: Any) -> None:
        raise Enough

    monkeypatch.setattr(loading, "load_files", counting)
    monkeypatch.setattr(study, "_costs", costs)
    monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / "stores"))
    files = {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")}
    with pytest.raises(Enough):
        api.shrink(str(teacher_folder / "teacher"), tmp_path / "out", max_parameters=9, quiet=True, **files)
    assert len(read) == 1


def test_a_weak_teacher_is_refused_with_what_can_be_done(teacher_folder: Path, tmp_path: Path) -> None:
    """There is no option to go on, so none is named."""
    files = {"train": str(teacher_folder / "train.csv"), "dev": str(teacher_folder / "dev.csv")}
    with pytest.raises(TutelageError, match=r"no better than a constant answer .*; fine-tune it on this task$"):
        api.shrink(str(teacher_folder / "random"), tmp_path / "out", max_parameters=9, quiet=True, **files)


@pytest.mark.parametrize(
    ("given", "value"), [("5ms", 5), ("5", 5), (5, 5), (2.5, 2.5), ("0.1s", 100), (" 7 MS", 7), (None, None)]
)
def test_amounts_have_units(given: Any, value: float | None) -> None:
    assert amount(given, "max_latency", {"ms": 1, "s": 1000}) == value


@pytest.mark.parametrize("given", ["", "2,5ms", "fast", "-3ms", "5MB", "0", "nan", "1e999"])
def test_other_amounts_are_refused(given: str) -> None:
    with pytest.raises(TutelageError, match=r"max.latency .* is no positive amount; write it as 5ms, 5s"):
        amount(given, "max_latency", {"ms": 1, "s": 1000})


def test_shapes_are_cut_in_width_or_in_depth() -> None:
    found = names(6, {})
    assert found[:2] == ["flops=0.75", "flops=0.5"]
    assert [name for name in found if name.startswith("layers")] == ["layers=4", "layers=3", "layers=2", "layers=1"]
    assert [name for name in names(1, {}) if name.startswith("layers")] == []
    kept = {"vocabulary": "trimmed"}
    assert "layers=3,vocabulary=trimmed" in names(6, kept)
    assert student_of("layers=3,vocabulary=trimmed", kept) == Copied(layers=3, vocabulary="trimmed")
    assert student_of("flops=0.35", {}) == Pruned(target_flops=0.35)


def shape_of(share: float, limits: Limits) -> ShapeEntry:
    """A student whose costs grow evenly with its operations: 1 + 2 s ms, 10 + 10 s MB, 1,000 (1 + s) parameters."""
    ms, size, parameters = 1 + 2 * share, round((10 + 10 * share) * 1e6), round(1000 * (1 + share))
    exceeds = limits.exceeded(ms, size, parameters, room=ROOM)
    return ShapeEntry(name=f"flops={share}", parameters=parameters, ms=ms, bytes=size, exceeds=exceeds)


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({"max_size_mb": 16.5}, 0.65),
        ({"max_latency_ms": 2 / ROOM}, None),  # half of the operations meets it exactly
        ({"max_latency_ms": 2.21 / ROOM}, 0.6),
        ({"max_latency_ms": 2.21 / ROOM, "max_size_mb": 15.55, "max_parameters": 1700}, 0.55),
        ({"max_size_mb": 17.65}, 0.76),  # only the teacher itself is larger
        ({"max_size_mb": 10.9}, None),  # not even the smallest
        ({"max_size_mb": 99}, None),
    ],
)
def test_one_more_share_is_tried_at_which_the_limits_are_just_met(given: dict[str, float], share: float | None) -> None:
    limits = Limits(min_retention=0.9, **given)
    shapes = [shape_of(one, limits) for one in (0.5, 0.7, 0.1)]
    shapes.append(ShapeEntry(name="layers=3", parameters=1, ms=1, bytes=1, exceeds=[]))
    assert share_at_the_limits(limits, shapes, shape_of(1.0, limits)) == share
    if share is not None and share < 0.7:
        assert share_at_the_limits(limits, shapes, None) == share
        assert not shape_of(share, limits).exceeds and shape_of(share + 0.02, limits).exceeds
    else:
        assert share_at_the_limits(limits, shapes, None) is None


def found_of(*trained: Trained, answer: str | None = None) -> Shrink:
    return Shrink(
        tutelage="0", teacher="<b>t</b>", task="a <script>", metric="accuracy", limits=Limits(max_latency_ms=1, min_retention=0.9),
        tokens=9, forms=[Form(form="onnx", ms=3, bytes=9, score=0.9), Form(form="int8", ms=2, bytes=3, score=0.9)],
        shapes=[ShapeEntry(name="layers=1", parameters=10, ms=0.5, bytes=2, exceeds=[])], trained=list(trained), answer=answer,
    )  # fmt: skip


def trained(score: float, exceeds: list[str]) -> Trained:
    difference = Difference(value=score - 0.9, low=score - 0.95, high=score - 0.85)
    return Trained(
        name="layers=1",
        folder="f",
        ms=0.5,
        bytes=2,
        score=score,
        teacher=0.9,
        int8_teacher=0.88,
        difference=difference,
        exceeds=exceeds,
    )


def test_the_verdict_names_the_limit_that_binds() -> None:
    said = _verdict(found_of(trained(0.72, ["keeps 80.0% of 90.0%"])))
    assert said.startswith("No student meets the limits") and said.endswith("keeps 80.0% of 90.0%.")
    said = _verdict(found_of(trained(0.855, []), answer="layers=1"))
    assert "keeps 95.0%" in said and said.endswith("; the teacher in int8 keeps 97.8% at 2.00 ms and 0.0 MB.")
    one = trained(0.855, [])
    assert one.retention == pytest.approx(0.95) and one.least == pytest.approx(1 + (0.855 - 0.95) / 0.9)


def test_a_single_example_has_no_interval() -> None:
    one = trained(0.855, []).model_copy(update={"difference": Difference(value=-0.045, low=None, high=None)})
    found = found_of(one, answer="layers=1")
    assert one.least is None and "keeps 95.0% of the teacher's accuracy at 0.50 ms" in _verdict(found)
    assert "−0.045" in page(found) and "None" not in page(found)


def test_the_page_escapes_names() -> None:
    drawn = page(found_of(trained(0.855, []), answer="layers=1"))
    assert "a &lt;script&gt;" in drawn and "layers=1 (taken)" in drawn
    # The rival is on the page, scored on the same texts.
    assert "teacher, int8" in drawn and "97.8" in drawn and "teacher 0.978 at 2.00 ms" in drawn


def test_the_nearest_student_is_that_with_the_least_excess() -> None:
    """Of the limit that binds, and not the fastest."""
    found = found_of()
    found.limits = Limits(max_size_mb=5, min_retention=0.9)
    sizes = {"layers=1": (14_000_000, 0.3), "flops=0.1": (12_800_000, 0.5)}
    found.shapes = [
        ShapeEntry(name=name, parameters=1, ms=ms, bytes=size, exceeds=found.limits.exceeded(ms, size, 1))
        for name, (size, ms) in sizes.items()
    ]
    assert "the nearest, flops=0.1, takes 12.8 MB of 5 MB" in _nothing_fits(found).verdict


def test_limits_say_what_is_exceeded() -> None:
    limits = Limits(max_latency_ms=1, max_size_mb=2, max_parameters=3, min_retention=0.9)
    assert limits.exceeded(0.5, 1_000_000, 3) == []
    assert limits.exceeded(1.5, 2_500_000, 4) == ["1.50 ms of 1 ms", "2.5 MB of 2 MB", "4 parameters of 3"]
