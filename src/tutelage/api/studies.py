"""The commands that carry out or compare several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tutelage.data.signature import takes_data
from tutelage.errors import TutelageError, option
from tutelage.recipes.choices import Dtype, Launcher, Precision

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions, Table
    from tutelage.recipes.recipe import Recipe
    from tutelage.report.attention import AttentionReport
    from tutelage.report.compared import CompareReport
    from tutelage.report.search import Search
    from tutelage.report.shrink import Shrink
    from tutelage.run.inputs import Model, Splits
    from tutelage.run.result import Result
    from tutelage.students.specs import Student
    from tutelage.studies.ablation import Ablation
from tutelage.api.common import (
    FILES,
    FilePath,
    Plugin,
    amount,
    carried_out,
    data_config,
    megabytes,
    milliseconds,
    named_methods,
    named_students,
    place,
    place_or_none,
    plugin_files,
    read_plugins,
    recipe_for,
    several,
    student_from,
)


@takes_data(*FILES, "candidates", "max_train", "max_length")
def ablate(
    method: Literal["tinybert"],
    out: FilePath,
    *,
    teacher: Model,
    general_teacher: Model,
    corpus: FilePath,
    student: str | Student = "layers=4,hidden=312,intermediate=1200,heads=12",
    rows: Sequence[str] = (),
    seeds: int = 3,
    general: FilePath | None = None,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    launcher: Launcher = "local",
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Ablation:
    """Run a method with one part left out at a time: the tables of its paper.

    The rows are arms of a comparison, which writes and computes what docs/guides/compare.md says.

    Args:
        method: Method that has such tables.
        out: Folder of the runs; a stopped command continues when it is repeated.
        teacher: Teacher fine-tuned on the task: a folder or a hub id.
        general_teacher: Pretrained teacher of the general stage: a folder or a hub id.
        corpus: Folder of `tutelage corpus build`.
        student: Sizes of the student.
        rows: Rows of the tables to run, with commas between them: full,no_gd,no_attn. Default: all.
        seeds: Runs of each row.
        general: Folder of the general students, to share them between tasks. Default: OUT/general.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the runs as path=value; a row without the stage that it names ignores it.
        launcher: Where runs are carried out: local, one after another; ray, side by side on a Ray cluster (needs the extra ray).
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage ablate tinybert --task mrpc --teacher teacher/ --general-teacher bert-base-uncased --corpus corpus/
        --candidates words/mrpc --out runs/ablation
    """
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Fresh, parse
    from tutelage.studies import ablation

    if method != "tinybert":
        raise TutelageError(f"there are no ablation tables of {method!r}; use tinybert")
    spec = parse(student) if isinstance(student, str) else student
    if not isinstance(spec, Fresh):
        raise TutelageError(
            f"{option('student')} {student!r} makes no new network; give sizes, such as layers=4,hidden=312"
        )
    read_plugins(plugins)
    with Inputs(out) as inputs:
        return ablation.ablate(
            place(out),
            teacher=inputs.model(teacher, "teacher"),
            general_teacher=inputs.model(general_teacher, "general_teacher"),
            corpus=place(corpus),
            student=spec,
            data=data_config(inputs.data(data, options)),
            arms=[row.strip() for text in several(rows) for row in text.split(",")] or ablation.ARMS,
            seeds=seeds,
            general=place_or_none(general),
            mixed_precision=mixed_precision,
            settings=settings,
            launcher=launcher,
            plugins=() if launcher == "local" else plugin_files(plugins),
            quiet=quiet,
        )


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def compare(
    plan: FilePath | Mapping[str, Any] | None = None,
    *,
    out: FilePath,
    teacher: Model | None = None,
    methods: Sequence[str | Recipe | Callable[[], Recipe]] = (),
    students: Sequence[FilePath | Student | tuple[Any, Any]] = (),
    seeds: int | None = None,
    steps: int | Literal["equal", "flops", "recipe"] | None = None,
    against: str | None = None,
    baseline: bool = True,
    served: bool = True,
    store: bool = True,
    mixed_precision: Precision | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    launcher: Launcher = "local",
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> CompareReport:
    """Compare methods, students, tasks and seeds: scores with intervals, and which differences are shown.

    Every combination is a run in ``out``. Finished ones are read, stopped ones are continued; one that fails is recorded, and the
    exit code is then 1. See docs/guides/compare.md for what is written and computed, docs/guides/python.md for objects.

    Args:
        plan: YAML file of several tasks, or of methods with settings; other options replace its fields.
        out: Folder of the comparison; a stopped command continues when it is repeated.
        teacher: Fine-tuned teacher: a folder or a hub id.
        methods: Methods, with commas between them: kd,pkd,compact; tinybert:no_da leaves a part out, as --ablation does.
        students: Students, as distill takes them: layers=3. Default: each method's own.
        seeds: Runs of each method with each student. Default: 3.
        steps: Optimiser steps of each run; equal: as many as the longest recipe plans; flops: for equal operations;
            recipe: each its own. Default: equal.
        against: Method that the others are compared with. Default: the first.
        baseline: Train each student without the teacher too, for as many steps.
        served: Measure teachers, and students of the first method and seed, in ONNX and int8 too (needs the extra onnx).
        store: Keep the teacher's knowledge of a task's texts on disk, once for all runs that need the same of it.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here. Default: no.
        settings: Any setting of the runs as path=value, for the methods that have it: stages.*.batch_size=16.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        launcher: Where runs are carried out: local, one after another; ray, side by side on a Ray cluster (needs the extra ray).
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage compare --teacher teacher/ --task mrpc --methods kd,compact --students layers=3 layers=2 --out compare
    """
    from tutelage.data.config import DataConfig
    from tutelage.recipes.settings import parsed
    from tutelage.run.inputs import Inputs
    from tutelage.studies.compare import compare as compared
    from tutelage.studies.compare_plan import ComparedMethod, plan_of

    more = read_plugins(plugins)
    names, recipes = named_methods(methods)
    with Inputs(out) as inputs:
        shapes, specs = named_students(students, inputs)
        own: dict[str, Any] = {"methods": names, "students": shapes, "seeds": seeds, "against": against}
        own |= {"mixed_precision": mixed_precision, "settings": parsed(settings)}
        own["steps"] = int(steps) if isinstance(steps, str) and steps.isdecimal() else steps
        without = {"baseline": baseline, "served": served, "store": store}
        own |= {name: False for name, wanted in without.items() if not wanted}
        texts = inputs.data(data, options)
        if teacher is not None:
            own["tasks"] = [{"teacher": inputs.model(teacher, "teacher"), "data": texts}]
        elif data_config(texts) != DataConfig():
            raise TutelageError(
                f"there is no teacher; give {option('teacher')} FOLDER, or name teachers and texts in the plan"
            )

        def recipe_of(method: ComparedMethod, student: str, task: str | None) -> Recipe:
            spec = specs.get(student, student) or None
            given = recipes.get(method.method, method.method)
            return recipe_for(given, spec, inputs, task, method.ablation, more=more).part("task")

        files = () if launcher == "local" else plugin_files(plugins)
        return compared(plan_of(plan, own), place(out), recipe_of, launcher=launcher, plugins=files, quiet=quiet)


@takes_data(*FILES, "unlabeled", "max_train", "max_length")
def chain(
    teacher: Model,
    out: FilePath,
    *,
    through: Sequence[FilePath | Student | tuple[Any, Any]],
    student: FilePath | Student | tuple[Any, Any] = "layers=3",
    method: str | Recipe | Callable[[], Recipe] | None = "compact",
    seed: int = 0,
    allow_weak_teacher: bool = False,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> list[Result]:
    """Distil through teacher assistants (TAKD): each student is the teacher of the next.

    Returns the results of all runs, the student's last. Its run is ``out``; those of the assistants lie in ``out/assistants``.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder of the runs; a stopped command continues when it is repeated.
        through: Teacher assistant, written as --student is; repeat the option from large to small.
        student: Fields of the method's student to replace (layers=3), sizes of a new network (layers=4,hidden=312), or a
            checkpoint.
        method: Method: compact, kd, pkd, tinybert, minilmv2, minimum_knowledge or another of `tutelage methods`, or of a
            plug-in.
        seed: Seed of all random numbers.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the runs as path=value: stages.distill.epochs=2.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage chain --teacher teacher/ --through layers=9 --through layers=6 --student layers=3 --task mrpc --out runs/chain
    """
    from tutelage.recipes.recipe import Assistant
    from tutelage.recipes.settings import run_config
    from tutelage.report.model import load_report
    from tutelage.run.assistants import links
    from tutelage.run.inputs import Inputs
    from tutelage.run.result import Result

    if not through:
        raise TutelageError(
            f"there is no assistant between teacher and student; give {option('through')} layers=5, or use distill"
        )
    more = read_plugins(plugins)
    with Inputs(out) as inputs:
        tree = inputs.data(data, options)
        recipe, *assistants = (
            recipe_for(method, link, inputs, tree.get("task"), more=more).part("task")
            for link in (student, *several(through))
        )
        fields = {
            "teacher": inputs.model(teacher, "teacher"),
            "out": out,
            "seed": seed,
            "served": True,
            "allow_weak_teacher": allow_weak_teacher,
            "mixed_precision": mixed_precision,
        }
        between = [Assistant(student=assistant.student) for assistant in assistants]
        recipe = recipe.model_copy(update={"assistants": between})
        config = run_config(recipe, tree, settings, **fields)
        if config.recipe.assistants != between:
            raise TutelageError(
                f"the teacher assistants of a chain are those of {option('through')}; leave out recipe.assistants"
            )
        last = carried_out(config, True, quiet)
        folders = [Path(str(one.out)) for one in links(config)[:-1]]
    return [*(Result(folder, load_report(folder).model_dump(mode="json")) for folder in folders), last]


@takes_data(*FILES, "unlabeled", "max_train", "max_length")
def search_knowledge(
    teacher: Model,
    out: FilePath,
    *,
    student: FilePath | Student | tuple[Any, Any] | None = None,
    trials: int = 24,
    seeds: int = 3,
    under: float | None = None,
    hidden_epochs: int = 3,
    prediction_epochs: int = 2,
    lr: float | None = None,
    store_dtype: Dtype = "float16",
    seed: int = 0,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Search:
    """Search the smallest part of a teacher's hidden states that is enough: score against bytes per example.

    The grid is 1, 2, 3 or all pairs of layers, 1 to 50 or all tokens, a twentieth to all neurons, up to the teacher's layer at
    8, 10 or 12 twelfths of its depth. Configurations are compared on the validation split, never on the evaluation set. See
    :mod:`tutelage.studies.search` for the files that are written.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder of the search; must be new. A stopped command continues when it is repeated; with more trials or seeds,
            finished runs are not repeated.
        student: Fields of the method's student to replace, sizes of a new network, or a checkpoint. Default: ROSITA6.
        trials: Configurations to try; the first rung trains all of them, each later one the best third.
        seeds: Runs of each configuration in the last rung; earlier rungs have one.
        under: Limit in bytes per example; the best configuration within it is named. If all are larger, the exit code is 1.
        hidden_epochs: Epochs on hidden states in the last rung; a third of it in the rung before, and so on.
        prediction_epochs: Epochs on predictions in the last rung; a third of it in the rung before, and so on.
        lr: Peak learning rate of both stages. Default: the method's.
        store_dtype: Type of the stored hidden states, in which bytes per example are counted.
        seed: Seed of the draw, and of the first run.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the runs as path=value; epochs are those of the last rung.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage search-knowledge --teacher teacher/ --task sst2 --student layers=3 --out search/ --under 10000
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies import search

    read_plugins(plugins)
    with Inputs(out) as inputs:
        return search.search_knowledge(
            inputs.model(teacher, "teacher"),
            place(out),
            student=student_from(student, inputs),
            trials=trials,
            seeds=seeds,
            seed=seed,
            under=under,
            hidden_epochs=hidden_epochs,
            prediction_epochs=prediction_epochs,
            lr=lr,
            mixed_precision=mixed_precision,
            dtype=store_dtype,
            quiet=quiet,
            settings=settings,
            data=inputs.data(data, options),
        )


@takes_data(*FILES, "unlabeled", "max_train", "max_length")
def shrink(
    teacher: Model,
    out: FilePath,
    *,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    max_parameters: str | float | None = None,
    min_retention: float = 0.98,
    vocabulary: Literal["full", "trimmed"] = "full",
    teacher_store: FilePath | None = None,
    seed: int = 0,
    mixed_precision: Precision = "no",
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Shrink:
    """Find the best student within limits of time and size on this machine, train it, and export it in int8.

    Shapes are exported and timed before anything is trained; of those that meet the limits the largest are tried for some steps,
    and the best is trained with the default method. If the teacher itself meets the limits in int8, it is exported and no student
    is trained. See :mod:`tutelage.studies.shrink`.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Output folder; new or empty. A stopped command continues when it is repeated.
        max_latency: Time of one text of mean length on one thread, in milliseconds: 5ms.
        max_size: Size of the int8 file, in megabytes: 20MB.
        max_parameters: Number of parameters: 10M.
        min_retention: Score in int8 divided by that of the teacher in float32, at least.
        vocabulary: full, or trimmed to the pieces of the training texts.
        teacher_store: Folder of the teacher's stored knowledge. Default: the store that fits, written if there is none.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage shrink --teacher teacher/ --task sst2 --max-latency 5ms --min-retention 0.97 --out small/
    """
    from tutelage.methods.compact import compact
    from tutelage.recipes.settings import run_config
    from tutelage.report.shrink import Limits
    from tutelage.run.inputs import Inputs
    from tutelage.studies.shrink import shrink as shrunk

    limits = Limits(
        max_latency_ms=milliseconds(max_latency, "max_latency"),
        max_size_mb=megabytes(max_size, "max_size"),
        max_parameters=amount(max_parameters, "max_parameters", {"": 1, "M": 1e6, "k": 1e3}),
        min_retention=min_retention,
    )
    read_plugins(plugins)
    with Inputs(out) as inputs:
        fields = {"teacher": inputs.model(teacher, "teacher"), "teacher_store": teacher_store, "seed": seed}
        fields |= {"mixed_precision": mixed_precision, "baseline": False}
        config = run_config(compact(), inputs.data(data, options), (), **fields)
        return shrunk(config, Path(place(out)), limits, vocabulary=vocabulary, quiet=quiet)


def attention_report(
    teacher: Model,
    student: Model,
    texts: FilePath | Table,
    out: FilePath | None = None,
    *,
    text: str = "text",
    max_texts: int = 256,
    max_length: int | None = None,
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
) -> AttentionReport:
    """Compare the attention of a student with its teacher's, head by head: divergence and cosine similarity.

    See :mod:`tutelage.studies.attention` for what is measured. In Python the texts may be in memory: a list, a
    ``datasets.Dataset``, a frame or a dict of columns.

    Args:
        teacher: Teacher, with any head or none: a folder or a hub id.
        student: Student with the teacher's tokenizer: a folder or a hub id.
        texts: Texts that were not trained on: .txt, one a line, or CSV, TSV, JSONL, Parquet.
        out: File for a page with pictures and tables; ends in .html. Default: no page.
        text: Column of the text.
        max_texts: Number of texts to draw if there are more.
        max_length: Longest input in tokens. Default: 128, or the positions of the models.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage attention-report teacher/ runs/a/student texts.txt --out attention.html
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies.attention import compare_models

    read_plugins(plugins)
    with Inputs() as inputs:
        return compare_models(
            inputs.model(teacher, "teacher"),
            inputs.model(student, "student"),
            inputs.texts(texts, "texts", text),
            place_or_none(out),
            text=text,
            max_texts=max_texts,
            max_length=max_length,
            quiet=quiet,
        )
