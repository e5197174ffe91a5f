"""The commands on teacher stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tutelage.data.signature import takes_data
from tutelage.recipes.choices import Dtype, Precision

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions
    from tutelage.recipes.recipe import Recipe
    from tutelage.report.results import StorePlan
    from tutelage.report.teachers import StoreEntry
    from tutelage.run.inputs import Model, Splits
    from tutelage.students.specs import Student
from tutelage.api.common import FILES, FilePath, Plugin, place, read_plugins, store_config


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def write_store(
    teacher: Model,
    out: FilePath,
    *,
    method: str | Recipe | Callable[[], Recipe] | None = "compact",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    whole: bool = False,
    store_dtype: Dtype = "float16",
    allow_weak_teacher: bool = False,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> StoreEntry:
    """Run a teacher once over the data and store what a method needs of it.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder for the store; must be new. A stopped command continues when it is repeated.
        method: Method whose needs are stored: minimum_knowledge, compact, kd, pkd, tinybert, minilmv2 or another of `tutelage
            methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            stored. Default: the method's student.
        whole: Store all layers that the method could pair, at all tokens and neurons: a store for every smaller configuration.
        store_dtype: Type of the stored hidden states.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        mixed_precision: Precision of the teacher; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments, or a folder that holds something else.

    Example: tutelage store write --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3 --whole
        --out stores/sst2
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    more = read_plugins(plugins)
    with Inputs(Path(place(out)).with_name(f"{Path(place(out)).name}-inputs")) as inputs:
        fields = {
            "teacher": inputs.model(teacher, "teacher"),
            "out": out,
            "store_dtype": store_dtype,
            "mixed_precision": mixed_precision,
            "allow_weak_teacher": allow_weak_teacher,
        }
        config = store_config(method, student, inputs, inputs.data(data, options), settings, more, fields)
        return stores.write(config, whole, quiet=quiet)


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def plan_store(
    teacher: Model,
    *,
    method: str | Recipe | Callable[[], Recipe] | None = "compact",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    whole: bool = False,
    store_dtype: Dtype = "float16",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> StorePlan:
    """Compute what a store would cost and save, before anything runs: bytes, operations, epochs until it pays.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        method: Method whose needs are stored: minimum_knowledge, compact, kd, pkd, tinybert, minilmv2 or another of `tutelage
            methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            stored. Default: the method's student.
        whole: Store all layers that the method could pair, at all tokens and neurons: a store for every smaller configuration.
        store_dtype: Type of the stored hidden states.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage store plan --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    more = read_plugins(plugins)
    with Inputs() as inputs:
        fields = {"teacher": inputs.model(teacher, "teacher"), "out": "unused", "store_dtype": store_dtype}
        method = "minimum_knowledge" if method is None else method
        config = store_config(method, student, inputs, inputs.data(data, options), settings, more, fields)
        return stores.estimate(config, whole)


def compact_store(
    store: FilePath,
    out: FilePath,
    *,
    method: str | Recipe | Callable[[], Recipe] | None = "compact",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
) -> StoreEntry:
    """Cut a store down to what a method needs; the same bytes as if the teacher had run again.

    Args:
        store: Folder of a larger store.
        out: Folder for the smaller store; must be new.
        method: Method whose needs are kept: minimum_knowledge, compact, kd, pkd, tinybert, minilmv2 or another of `tutelage
            methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            kept. Default: the method's student.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.

    Raises:
        TutelageError: when the larger store lacks something.

    Example: tutelage store compact stores/sst2 --method minimum_knowledge --student layers=3 --set hidden.keep=1l_10t_0.1h --out
        stores/small
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    more = read_plugins(plugins)
    with Inputs() as inputs:
        method = "minimum_knowledge" if method is None else method
        config = store_config(method, student, inputs, {}, settings, more, {})
        return stores.cut(config.recipe, Path(place(store)), Path(place(out)), quiet=quiet)


def inspect_store(path: FilePath) -> StoreEntry:
    """Describe the content of a store, and which teacher wrote it.

    Args:
        path: Folder of a store.

    Raises:
        TutelageError: when it is no store.

    Example: tutelage store inspect stores/sst2 --json
    """
    from tutelage.knowledge.store.reading import Store
    from tutelage.teachers.knowledge import describe

    return describe(Store(place(path)))


def verify_store(path: FilePath, *, teacher: Model | None = None) -> StoreEntry:
    """Compare every byte of a store with its checksums.

    Args:
        path: Folder of a store.
        teacher: Teacher that must have written it: a folder or a hub id.

    Returns:
        The description of the store, as :func:`inspect_store`.

    Raises:
        TutelageError: when a byte differs, or another teacher wrote it.

    Example: tutelage store verify stores/sst2 --teacher teacher/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.stores import verify

    with Inputs() as inputs:
        verify(Path(place(path)), None if teacher is None else inputs.model(teacher, "teacher"))
    return inspect_store(path)
