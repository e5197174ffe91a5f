"""Recipes and runs as data: YAML and back, settings by path, one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tutelage.data.augmentation.rules import Rules
from tutelage.data.augmentation.variants import Augmentation
from tutelage.data.masking import Masking
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.cuts import Neurons, Tokens
from tutelage.knowledge.store.scheme import Scheme
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.methods import METHODS
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.kinds import kinds_of, ours
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.term import Term
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml, validated, with_absolute_paths, yaml_value
from tutelage.recipes.overview import method_row
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.recipes.settings import run_config, with_settings
from tutelage.report.references import Paper
from tutelage.run.workspace import new_accelerator
from tutelage.serving.timing import Latency
from tutelage.students.specs import Checkpoint, Copied, Fresh, Student, StudentSpec, parse
from tutelage.studies.compare_plan import ComparePlan
from tutelage.studies.teams import Member


def parts() -> list[Recipe]:
    """The parts of every method that a run can be of."""
    found = []
    for make in METHODS.values():
        recipe = make()
        general = [isinstance(stage.data, Instances) for stage in recipe.stages]
        if any(general):
            found.append(recipe.part("general"))
        if not all(general):
            found.append(recipe.part("task"))
    return found


@pytest.mark.parametrize("recipe", parts(), ids=lambda recipe: f"{recipe.method}-{recipe.stages[0].name}")
def test_a_recipe_is_the_same_after_yaml(recipe: Recipe, tmp_path: Path) -> None:
    config = RunConfig(recipe=recipe, teacher="t", out="o")
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(path) == config
    assert to_yaml(from_yaml(path)) == to_yaml(config)


def tiny() -> RunConfig:
    return RunConfig(recipe=METHODS["tinybert"]().part("task"))


def test_settings_find_their_place() -> None:
    changed = with_settings(
        tiny(),
        ["stages.prediction.temperature=2", "teacher=there", "stages.*.epochs=7", "student.layers=6", "data.task=sst2"],
    )
    first, second = changed.recipe.stages
    assert isinstance(second.objective[0], SoftLabels) and second.objective[0].temperature == 2
    assert (first.epochs, second.epochs) == (7, 7)
    assert changed.teacher == "there" and changed.data.task == "sst2"
    assert isinstance(changed.recipe.student, Fresh) and changed.recipe.student.layers == 6


def test_a_setting_may_be_a_list() -> None:
    changed = with_settings(tiny(), ["stages.intermediate.hidden.layers=[1,2,3,4]"])
    assert changed.recipe.stages[0].objective[1].layers == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.prediction.temprature=2", "there is no such setting"),
        ("epochs=2", "fits several settings"),
        ("stages.prediction.temperature", "has no value"),
        ("stages.prediction.temperature=-1", "greater than or equal to 0.001"),
        ("stages.prediction.temperature=.inf", "a finite number"),
        ("stages.prediction.weight=.nan", "a finite number"),
        ("stages.prediction.weight=1e300", "less than or equal to 1000000"),
        ("stages.prediction.lr=fast", "lr: give a number, or 'auto'"),
        ("mixed_precision=fp8", "'no', 'bf16', 'fp16' or 'auto'"),
    ],
)
def test_wrong_settings(setting: str, message: str) -> None:
    with pytest.raises(TutelageError, match=message) as caught:
        with_settings(tiny(), [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: [", "is not a YAML file"),
        ("recipe: 3", "recipe"),
        ("", "describes no run: it is empty"),
        ("- a", "describes no run: it is a list"),
        ("teacher: x\nsurprise: 1\n", "it has no recipe; `tutelage recipe METHOD >"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(TutelageError, match=message) as caught:
        from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_key() -> None:
    with pytest.raises(TutelageError, match="there is no file"):
        from_yaml(Path("nowhere.yaml"))
    tree = yaml.safe_load(to_yaml(tiny()))
    tree["recipe"]["stages"][0]["learning_rate"] = 1
    with pytest.raises(ValidationError, match="learning_rate"):
        RunConfig.model_validate(tree)


def test_stages_and_terms_occur_once() -> None:
    with pytest.raises(ValidationError, match="each term once"):
        Stage(name="x", objective=[HardLabels(), HardLabels()])
    stage = Stage(name="x", objective=[HardLabels()])
    with pytest.raises(ValidationError, match="each name once"):
        Recipe(method="m", title="t", paper="p", student=Copied(), stages=[stage, stage])


def test_a_paper_is_words_or_what_cards_cite() -> None:
    """Each form survives YAML and is the same words."""
    paper = Paper(text="Ann, 2030", arxiv="3001.00001", title="{A}: b", authors="Ann, B")
    for given, words in (
        ("Ann, 2030", "Ann, 2030"),
        (paper, "Ann, 2030, arXiv:3001.00001"),
        ([paper, Paper(text="Bob, 2031")], "Ann, 2030, arXiv:3001.00001; Bob, 2031"),
    ):
        recipe = METHODS["kd"]().model_copy(update={"paper": given})
        back = validated(yaml.safe_load(to_yaml(RunConfig(recipe=recipe)))).recipe
        assert back.paper == given and method_row(back).paper == back.source == words
    with pytest.raises(ValidationError, match="arxiv"):
        Paper(text="Ann, 2030", arxiv="arXiv:3001.00001")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layers=3", Copied(layers=3)),
        ("layers=2+4+6", Copied(layers=[2, 4, 6])),
        ("layers=3,choose=first", Copied(layers=3, choose="first")),
        ("layers=4,hidden=312,intermediate=1200,heads=12", Fresh(layers=4, hidden=312, intermediate=1200, heads=12)),
        ("layers=4,init=fresh", Fresh(layers=4)),
        ("bert-base-uncased", Checkpoint(name="bert-base-uncased")),
        ("some/folder", Checkpoint(name="some/folder")),
    ],
)
def test_students_by_words(text: str, expected) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["layers=0", "layers=x", "layer=3", "layers=3,init=magic", "layers=3,hidden=big", "layers=1+x"]
)
def test_wrong_students(text: str) -> None:
    with pytest.raises(TutelageError, match="student") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_the_table_of_methods_is_computed_from_the_recipes() -> None:
    row = method_row(METHODS["tinybert"]())
    assert row.init == "random"
    assert [stage.stage for stage in row.stages] == ["general", "intermediate", "prediction"]
    assert [stage.data for stage in row.stages] == ["corpus", "augmented", "augmented"]
    assert row.stages[1].attention and row.stages[1].hidden and not row.stages[1].predictions
    assert row.stages[2].predictions == "KL, T=1" and not row.stages[2].labels
    assert list(row.stages[2].learns()) == ["predictions"]
    colder = METHODS["kd"]().model_copy(update={"stages": [Stage(name="x", objective=[SoftLabels(temperature=3)])]})
    assert method_row(colder).stages[0].predictions == "KL, T=3"
    for layers, words in (
        ([0, 2, 0], "layer 2"),
        ([4, 0, 12], "layers 4 0 12"),
        ([0, 5], "layers 0 5"),
        ("skip", "skip"),
    ):
        stage = Stage(name="x", objective=[Hidden(layers=layers)])
        assert method_row(colder.model_copy(update={"stages": [stage]})).stages[0].hidden == f"MSE, {words}"


def test_the_json_schema_knows_every_part_of_a_recipe() -> None:
    """Terms, mechanisms and students by the field that names them, those of plug-ins too; each method's recipe is valid by it."""
    jsonschema = pytest.importorskip("jsonschema")

    class Halved(StudentSpec):
        init: Literal["halved"] = "halved"
        of: Student
        """A student that is made of another."""

    schema = RunConfig.model_json_schema()
    parts = schema["$defs"]
    stage, recipe = parts["Stage"]["properties"], parts["Recipe"]["properties"]
    for base, key, found in (
        (Term, "kind", stage["objective"]["items"]),
        (Mechanism, "kind", stage["mechanisms"]["items"]),
        (StudentSpec, "init", recipe["student"]),
    ):
        mapping = found["discriminator"]["mapping"]
        assert found["discriminator"]["propertyName"] == key and set(mapping) == set(kinds_of(base, key))
        assert all(place.removeprefix("#/$defs/") in parts for place in mapping.values())
    assert "halved" in recipe["student"]["discriminator"]["mapping"]
    check = jsonschema.Draft202012Validator(schema)
    for make in METHODS.values():
        tree = {"recipe": make().model_dump(mode="json"), "data": {"task": "sst2"}}
        check.validate(tree)
    assert check.is_valid({"recipe": {**tree["recipe"], "student": {"init": "halved", "of": {"init": "copied"}}}})
    for student in ({"init": "halved"}, {"init": "fresh", "layer": 3}, {"init": "nope"}, {"layers": 3}):
        assert not check.is_valid({"recipe": {**tree["recipe"], "student": student}})
    assert RunConfig.model_json_schema(mode="serialization")["$defs"]["SoftLabels"] == parts["SoftLabels"]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that values of a type may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def test_every_setting_is_described() -> None:
    """A string below each field: the JSON schema and docs/api.md show it. A field with one value only names its class."""
    waiting: list[type[BaseModel]] = [RunConfig, ComparePlan, Scheme, Latency]
    for base, key in ((Term, "kind"), (Mechanism, "kind"), (StudentSpec, "init")):
        waiting += [one for one in kinds_of(base, key).values() if ours(one)]
    seen: set[type[BaseModel]] = set()
    while waiting:
        model = waiting.pop()
        if model not in seen:
            seen.add(model)
            waiting += [part for field in model.model_fields.values() for part in models_in(field.annotation)]
    assert seen > {Instances, Augmentation, Rules, Masking, Tokens, Neurons, SoftLabels, Copied}
    lacking = [
        f"{model.__name__}.{name}"
        for model in seen
        for name, field in model.model_fields.items()
        if not field.description
        and not (get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1)
    ]
    assert sorted(lacking) == []


def test_a_run_is_repeated_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that are there get their absolute paths; ids of the Hub, columns and the output folder stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "mine.csv").write_text("text,label\n")
    student = {"init": "copied", "source": "teacher/"}
    recipe = METHODS["kd"]().model_copy(update={"student": Copied(**student)})
    config = RunConfig(
        recipe=recipe,
        teacher="teacher/",
        teachers=(),
        data={"train": "mine.csv", "dev": "somebody/some-data", "text": "text"},
        out="text",
    )
    found = with_absolute_paths(config)
    assert found.teacher == found.recipe.student.source == str(tmp_path / "teacher")
    assert found.data.train == str(tmp_path / "mine.csv")
    assert (found.data.dev, found.data.text, found.out) == ("somebody/some-data", "text", "text")
    assert with_absolute_paths(found) == found
    nothing = RunConfig(recipe=recipe)
    assert with_absolute_paths(nothing).recipe.stages == recipe.stages


def test_a_word_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` and ``train`` are words, also where folders have their names; the folder of out-of-fold predictions is a path."""
    monkeypatch.chdir(tmp_path)
    for name in ("auto", "train", "folds"):
        (tmp_path / name).mkdir()

    def sources(config: RunConfig) -> list[str]:
        stages = with_absolute_paths(config).recipe.stages
        return [made.source for stage in stages for made in stage.mechanisms if made.kind == "ptp_labels"]

    pea_kd = METHODS["pea_kd"]()
    assert with_absolute_paths(RunConfig(recipe=pea_kd, teacher_store="auto")).teacher_store == "auto"
    assert sources(RunConfig(recipe=pea_kd)) == ["train"]
    settings = {"stages.ptp.ptp_labels.source": "folds"}
    assert sources(run_config(pea_kd, {}, settings)) == [str(tmp_path / "folds")]


@pytest.mark.parametrize(("gain", "precision"), [(1.0, "no"), (2.0, "bf16")])
def test_auto_precision_is_measured_and_written_down(
    gain: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings say what it became, so that a run goes on in it, and stores of its teacher are found again."""
    now, linear = [0.0], torch.nn.functional.linear

    def timed(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0 if x.dtype == torch.bfloat16 else gain
        return linear(x[:1], weights[:1])

    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(speed.nn.functional, "linear", timed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    speed.fast_precision.cache_clear()
    config = RunConfig(recipe=METHODS["kd"](), mixed_precision="auto")
    assert config.mixed_precision == precision == yaml_value(to_yaml(config))["mixed_precision"]
    assert new_accelerator("auto").mixed_precision == precision
    speed.fast_precision.cache_clear()


def test_auto_precision_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    speed.fast_precision.cache_clear()
    with pytest.raises(TutelageError, match="auto measures one process and there are several; give bf16 or no"):
        validated({"recipe": METHODS["kd"]().model_dump(mode="json"), "mixed_precision": "auto"})


def settings_within(annotation: Any) -> Iterator[type[BaseModel]]:
    """The package's models of settings that an annotation names, with their subclasses and what their fields name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and ours(annotation):
        yield annotation
        for inner in [*annotation.__subclasses__(), *(field.annotation for field in annotation.model_fields.values())]:
            yield from settings_within(inner)
    for inner in get_args(annotation):
        yield from settings_within(inner)


@pytest.mark.parametrize("text", ["layers=2,hidden={},heads=2", "layers=2,intermediate={}", "layers={}", "words={}"])
def test_a_student_that_no_machine_holds_is_refused(text: str) -> None:
    with pytest.raises(TutelageError, match="less than or equal to") as caught:
        parse(text.format(10**30))
    assert "\n" not in str(caught.value)


def test_a_number_that_no_run_could_use_is_refused_with_the_settings() -> None:
    """In every field of every kind: alone, and in a list of one or of pairs."""
    found = {model for root in (RunConfig, ComparePlan, Member) for model in settings_within(root)}
    assert {Fresh, SoftLabels, Stage} < found
    taken = []
    for model in found:
        config = ConfigDict(allow_inf_nan=model.model_config.get("allow_inf_nan", True))
        for name, field in model.model_fields.items():
            # Other models have fields of their own. The largest norm of a gradient may be infinite, which clips none.
            if any(settings_within(field.annotation)) or (model, name) == (Stage, "clip"):
                continue
            hint = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            reader = TypeAdapter(hint, config=config)
            for number in (10**30, -(10**30), float("inf"), float("nan"), 1e300):
                for given in (number, [number], [(number, number)]):
                    with suppress(ValidationError):
                        taken.append((model.__name__, name, reader.validate_python(given)))
    assert not taken
