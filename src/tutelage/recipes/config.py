"""One run as data: the recipe, the teacher, the data and the output folder. One tree = YAML = command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.recipes.recipe import Recipe


class RunConfig(BaseModel):
    """Everything that determines a run. A run writes it to ``config.yaml``, and ``tutelage run`` repeats it from there."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recipe: Recipe
    """The method."""
    teacher: str | None = None
    """The teacher: a folder or a hub id. Of several teachers, the one whose layers are copied and that the report compares with."""
    teachers: tuple[str, ...] = ()
    """Several teachers, for stages that learn from more than one: folders, hub ids, or stores."""
    data: DataConfig = DataConfig()
    """The data of a run on a task."""
    corpus: str | None = None
    """A folder of ``tutelage corpus build``, for the stages on raw text."""
    out: str | None = None
    """Folder for the result; must be new or empty."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random."""
    baseline: bool = True
    """Train the same student without the teacher too, for as many steps, and report both."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass."""
    allow_weak_teacher: bool = False
    """Continue even if the teacher scores no better than a constant answer."""
    teacher_store: str | None = None
    """A folder with the teacher's stored knowledge, or ``auto``: the store that fits, written if there is none."""
    store_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    """Type of the hidden states that ``auto`` writes."""
    tracker: Literal["tensorboard", "trackio", "wandb", "mlflow"] | None = None
    """Experiment tracker."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        general = [stage.on_corpus for stage in self.recipe.stages]
        if any(general) and not all(general):
            raise ValueError("stages on a corpus and stages on a task are two runs; take one part of the recipe")
        if self.teachers and not self.recipe.takes_teachers:
            raise ValueError(
                f"the method {self.recipe.method!r} learns from one teacher; for several use autoskdbert, skdbert or ensemble"
            )
        return self


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def from_yaml(path: Path) -> RunConfig:
    """Read a run from a YAML file.

    Raises:
        TutelageError: when the file is missing, is not YAML, or does not describe a run.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TutelageError(f"there is no file {str(path)!r}; `tutelage recipe METHOD > {path}` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise TutelageError(f"{str(path)!r} is not a YAML file: {' '.join(str(error).split())}") from None
    return validated(tree, str(path))


def validated(tree: Any, name: str) -> RunConfig:
    """A tree of plain values as a run; every mistake becomes one line that names its place."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top level"
        given = "" if isinstance(first["input"], dict | list) else f" (given: {first['input']!r})"
        raise TutelageError(f"{name}: {place}: {first['msg']}{given}") from None
