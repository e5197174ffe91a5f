"""One run as data: the recipe, the teacher, the data and the output folder. One tree = YAML = command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from tutelage.data.config import BY_SETTING, DataConfig, Place
from tutelage.errors import TutelageError, option
from tutelage.fields import Seed
from tutelage.mechanisms.mechanism import Mechanism
from tutelage.objectives.kinds import kinds_of
from tutelage.recipes.choices import Dtype, Precision, Tracker
from tutelage.recipes.recipe import Recipe


def _known_precision(given: Precision) -> Precision:
    if given != "auto":
        return given
    from tutelage.evaluation.speed import fast_precision  # loads torch

    return fast_precision()


class RunConfig(BaseModel):
    """Everything that determines a run; ``config.yaml`` of a run is this, and repeats it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recipe: Recipe
    """Method: the student and the stages of its training."""
    teacher: Place | None = None
    """Teacher: a folder or a hub id. Of several teachers, the one whose layers are copied and that the report compares with."""
    first_teacher: Place | None = None
    """The teacher that teacher assistants began with: the report compares with it. A run with assistants sets it."""
    teachers: tuple[Place, ...] = ()
    """Several teachers, for stages that learn from more than one: folders, hub ids or stores."""
    data: DataConfig = DataConfig()
    """Texts of a run on a task."""
    corpus: Place | None = None
    """Folder of ``tutelage corpus build``, for stages on raw text."""
    out: Place | None = None
    """Output folder."""
    seed: Seed = 0
    """Seed of all random numbers."""
    baseline: bool = True
    """Train the same student without the teacher for as many steps, and show its scores in the report."""
    served: bool = False
    """Measure teacher, student and baseline in ONNX and int8 too, where the libraries of the extra ``onnx`` are installed. The
    commands of one run ask for it; studies of many runs do not."""
    mixed_precision: Annotated[Precision, AfterValidator(_known_precision)] = "no"
    """Precision of training and evaluation. ``no`` is float32; ``auto`` becomes ``bf16`` where this machine multiplies it faster,
    and is written down as what it became."""
    allow_weak_teacher: bool = False
    """Continue even if the teacher scores no better than chance."""
    teacher_store: Literal["auto"] | Place | None = None
    """Folder of the teacher's stored knowledge, or ``auto``: the store that fits, written if there is none."""
    store_dtype: Dtype = "float16"
    """Type of the hidden states that ``auto`` writes."""
    tracker: Tracker | None = None
    """Experiment tracker that gets the losses and scores."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        general = [stage.on_corpus for stage in self.recipe.stages]
        if any(general) and not all(general):
            raise ValueError("stages on a corpus and stages on a task are two runs; take one part of the recipe")
        if self.teachers and not self.recipe.takes_teachers:
            takers = [kind for kind, one in kinds_of(Mechanism).items() if one.takes_teachers]
            raise ValueError(
                f"the method {self.recipe.method!r} learns from one teacher; for several use a method with the mechanism "
                f"{' or '.join(takers)} (`tutelage methods`)"
            )
        if self.data.predictions is not None:
            also = [option(name) for name in ("teacher", "teacher_store") if getattr(self, name)]
            also += ["the other teachers"] if self.teachers else []
            also += ["the stages on a corpus"] if any(general) else []
            if also:
                raise ValueError(f"{option('teacher_predictions')} stands for the teacher; leave out {also[0]}")
        return self

    @property
    def taught(self) -> bool:
        """Whether a teacher is given: a model, or a file of its predictions."""
        return self.teacher is not None or self.data.predictions is not None


class _Loader(yaml.SafeLoader):
    """Reads 3e-5 as a number and ``no`` as text, as YAML 1.2 does; by YAML 1.1 they are text and false.

    Merge keys (``<<``) are not read, as in YAML 1.2: a few nested ones stand for more than any memory holds.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a merge key, which the base class would carry out here."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError("merge keys (<<) are not read; write the values out")


class _Dumper(yaml.SafeDumper):
    """Quotes text that :class:`_Loader` reads as a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _exponent = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true$|false$", re.IGNORECASE), list("tTfF"))


MOST_VALUES, DEEPEST = 100_000, 100
"""Values of a YAML file, and brackets within brackets, at most."""

LARGEST_FILE = 10_000_000
"""Bytes of a YAML file at most."""


def yaml_value(text: str) -> Any:
    """What YAML text stands for.

    Raises:
        yaml.YAMLError: when it is not YAML, is nested very deeply, or its aliases stand for very much.
    """
    depth = list(accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(char, 0) for char in text))
    if max(depth, default=0) > DEEPEST:  # PyYAML takes seconds to find out
        raise yaml.YAMLError("it is nested too deeply")
    try:
        tree = yaml.load(text, Loader=_Loader)
        if _size(tree, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES:,} values")
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        OverflowError,
    ) as error:  # of a date that Python does not know
        raise yaml.YAMLError(str(error)) from None
    return tree


def _size(tree: Any, known: dict[int, int]) -> int:
    """How many values a tree has. One that several aliases name is counted for each, but looked at once."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in known:
        known[id(tree)] = MOST_VALUES + 1  # as long as it is being looked at: a tree within itself has no end
        known[id(tree)] = 1 + sum(_size(value, known) for value in (tree.values() if isinstance(tree, dict) else tree))
    return known[id(tree)]


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The run with files and folders by their absolute paths, so that it can be repeated from anywhere; ``out`` stays."""
    return with_places(config, os.path.abspath)


def with_places(config: RunConfig, change: Callable[[str], str]) -> RunConfig:
    """The run with another name for each file and folder that it names and that exists; ``out`` stays."""
    found: RunConfig = _changed(config, change)
    return found.model_copy(update={"out": config.out})


def _changed(value: Any, change: Callable[[str], str], hint: Any = None) -> Any:
    if isinstance(value, BaseModel):
        hints = get_type_hints(type(value), include_extras=True)
        kept = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: new for name, old in kept.items() if (new := _changed(old, change, hints[name])) != old}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, list | tuple):
        return type(value)(_changed(one, change, hint) for one in value)
    if isinstance(value, str) and (
        hint == Place or (Place in (choices := get_args(hint)) and value not in _words(choices))
    ):
        return change(value) if os.path.exists(value) else value
    return value


def _words(choices: tuple[Any, ...]) -> set[Any]:
    """The words that a setting may have in place of a path (``auto``), whether or not a file has that name."""
    return {word for choice in choices if get_origin(choice) is Literal for word in get_args(choice)}


def to_yaml(config: BaseModel) -> str:
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)


def from_yaml(path: Path) -> RunConfig:
    """Read a run from a YAML file.

    Raises:
        TutelageError: when the file is missing, is not YAML, or does not describe a run.
    """
    remedy = f"`tutelage recipe METHOD > {path}` writes one"
    tree = yaml_file(path, remedy)
    if not isinstance(tree, dict) or "recipe" not in tree:
        found = (
            "is empty" if tree is None else "has no recipe" if isinstance(tree, dict) else f"is a {type(tree).__name__}"
        )
        raise TutelageError(f"{str(path)!r} describes no run: it {found}; {remedy}")
    return validated(tree, str(path))


def yaml_file(path: Path, remedy: str) -> Any:
    """What a YAML file stands for; ``remedy`` is for one that is missing.

    Raises:
        TutelageError: when the file is missing or is not YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise yaml.YAMLError(f"it is larger than {LARGEST_FILE:,} bytes")
        return yaml_value(content.decode())
    except FileNotFoundError:
        raise TutelageError(f"there is no file {str(path)!r}; {remedy}") from None
    except OSError as error:
        raise TutelageError(f"{str(path)!r:.200} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TutelageError(f"{str(path)!r} is not a YAML file: {' '.join(str(error).split())}") from None


def validated(tree: Any, name: str | None = None) -> RunConfig:
    """A tree of plain values as a run.

    Raises:
        TutelageError: as :func:`in_one_line` says it.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise TutelageError(in_one_line(error, name)) from None


@contextmanager
def as_options() -> Iterator[None]:
    """A value that pydantic refuses while this lasts is said to be that of the option of its name.

    Raises:
        TutelageError: as :func:`in_one_line` says it.
    """
    try:
        yield
    except ValidationError as error:
        raise TutelageError(in_one_line(error)) from None


def _or(message: str) -> str:
    return f", or {message.removeprefix('Input should be ')}"


def in_one_line(error: ValidationError, name: str | None = None) -> str:
    """The first mistake with its place in what has this ``name``; without a name as the option of the user."""
    every = error.errors()
    first = every[0]
    path = list(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    others = [one for one in every[1:] if one["loc"][:-1] == first["loc"][:-1] and one["input"] is first["input"]]
    if others and first["type"] in ("int_parsing", "float_parsing"):  # of a setting that is a number or a word
        number = "a whole number" if first["type"] == "int_parsing" else "a number"
        path, message = path[:-1], f"give {number}{''.join(_or(one['msg']) for one in others)}"
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    given = "" if isinstance(first["input"], dict | list | BaseModel) else f" (given: {first['input']!r:.200})"
    if name is not None:
        return f"{name}: {'.'.join(map(str, path)) or 'the top level'}: {message}{given}"
    if not path:
        return message
    inner = path[1:] if path[0] == "data" else path
    if path[0] == "recipe" or not inner or inner[0] in BY_SETTING:
        return f"{'.'.join(map(str, path))}: {message}{given}"
    return f"{option(str(inner[0]))}: {message}{given}"
