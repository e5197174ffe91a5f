"""The command line: thin. Each command is a function of :mod:`tutelage.api` with its words as options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tutelage.errors import TutelageError

app = typer.Typer(
    help="Compress BERT-family models by teaching.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# The options that several commands share.
Task = Annotated[
    str | None, typer.Option(help="sst2, mrpc, stsb, cola and the rest of GLUE; squad, squad2; conll2003.")
]


DataDir = Annotated[str | None, typer.Option(help="Folder of the task's original files; without it: the Hub.")]


Train = Annotated[
    str | None,
    typer.Option(help="Your training file: CSV, TSV, JSONL or Parquet; for spans SQuAD's JSON, for tokens CoNLL."),
]


Dev = Annotated[str | None, typer.Option(help="Your file to score on; without it a tenth of train.")]


Text = Annotated[str, typer.Option(help="Column of the text.")]


TextPair = Annotated[str | None, typer.Option(help="Column of the second text, for pairs.")]


Label = Annotated[str, typer.Option(help="Column of the label.")]


KindOption = Annotated[
    str | None, typer.Option(help="classification, regression, multilabel, tokens or spans; without it: by the labels.")
]


MaxTrain = Annotated[int | None, typer.Option(help="Use only so many training examples.")]


MaxLength = Annotated[int | None, typer.Option(help="Longest input in tokens; without it: the model's positions.")]


Out = Annotated[str, typer.Option(help="Folder for the result; must be new or empty.")]


Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


Precision = Annotated[str, typer.Option("--mixed-precision", help="no, bf16 or fp16.")]


Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it was stopped.")]


Settings = Annotated[
    list[str] | None, typer.Option("--set", help="path=value, any setting of the recipe: stages.prediction.epochs=2")
]


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout and nothing else.")]


Dtype = Annotated[str, typer.Option(help="Type of stored hidden states: float32, float16, bfloat16 or int8.")]


Whole = Annotated[
    bool, typer.Option("--whole", help="Keep all tokens and neurons of the layers: serves every smaller amount.")
]


StoreMethod = Annotated[str, typer.Option(help="Keep what this method needs: one of `tutelage methods`.")]


StoreStudent = Annotated[str | None, typer.Option(help="The student, as for distill; its depth decides the layers.")]


Corpus = Annotated[str, typer.Option(help="Folder of `tutelage corpus build`.")]


Words = Annotated[str | None, typer.Option("--candidates", help="Folder of `tutelage augment`, for augmented texts.")]


Tracker = Annotated[str | None, typer.Option(help="tensorboard, trackio, wandb or mlflow.")]


@app.command(epilog="Example: tutelage finetune --model bert-base-uncased --task sst2 --out teacher/")
def finetune(
    model: Annotated[str, typer.Option(help="Checkpoint to start from: a folder or a hub id.")],
    out: Out,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-5,
    seed: Seed = 0,
    mixed_precision: Precision = "no",
    tracker: Tracker = None,
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on a task: how a teacher is made."""
    from tutelage import api

    data = _data(task, data_dir, train, dev, text, text_pair, label, kind, None, max_train, max_length)
    report = api.finetune(
        model,
        out,
        epochs=epochs,
        lr=lr,
        seed=seed,
        mixed_precision=mixed_precision,
        tracker=tracker,
        settings=settings or [],
        resume=resume,
        quiet=as_json,
        **data,
    )
    _show(report, out, as_json)


@app.command(
    epilog="Example: tutelage pretrain --model bert-base-uncased --student layers=4,hidden=312,intermediate=1200,heads=12 "
    "--corpus corpus/ --out small/"
)
def pretrain(
    model: Annotated[str, typer.Option(help="Checkpoint to go on from, or with --student the one to be like.")],
    corpus: Corpus,
    out: Out,
    student: Annotated[str | None, typer.Option(help="Sizes of a new network: layers=4,hidden=312,...")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Predict the next words instead of masked ones.")] = False,
    head_only: Annotated[bool, typer.Option("--head-only", help="Train a head on a body that stays as it is.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the corpus.")] = 1,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    seed: Seed = 0,
    mixed_precision: Precision = "no",
    tracker: Tracker = None,
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a model on raw text without a teacher: a language-model head, or a small BERT to compare with."""
    from tutelage import api

    report = api.pretrain(
        model,
        corpus,
        out,
        student=student,
        causal=causal,
        head_only=head_only,
        epochs=epochs,
        lr=lr,
        seed=seed,
        mixed_precision=mixed_precision,
        tracker=tracker,
        settings=settings or [],
        resume=resume,
        quiet=as_json,
    )
    _show(report, out, as_json)


@app.command(
    epilog="Example: tutelage distill --teacher teacher/ --task sst2 --method tinybert "
    "--student layers=4,hidden=312,intermediate=1200,heads=12 --out runs/a"
)
def distill(
    out: Out,
    teacher: Annotated[
        str | None, typer.Option(help="Fine-tuned teacher: a folder or a hub id; not needed with a store.")
    ] = None,
    team: Annotated[
        list[str] | None,
        typer.Option(
            help="Teachers of a team, each a folder, hub id or store; a folder of `tutelage team train` for all."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="One of `tutelage methods`.")] = "kd",
    student: Annotated[
        str | None, typer.Option(help="layers=3 copies layers; with sizes a new network; or a checkpoint.")
    ] = None,
    stage: Annotated[str, typer.Option(help="task, or general: the method's stages on raw text.")] = "task",
    without: Annotated[
        str | None,
        typer.Option(
            "--ablation",
            help="Leave out a part of TinyBERT (no_gd, no_td, no_da, no_embd, no_pred, no_trm, no_attn, no_hidn) or parts of "
            "Pea-KD (no_sps, no_shuffle, no_ptp, no_pkd, no_kd; several with commas).",
        ),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Folder of `tutelage corpus build`, for --stage general.")] = None,
    candidates: Words = None,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, labelled by the teacher.")] = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    seed: Seed = 0,
    baseline: Annotated[bool, typer.Option(help="Train the same student without the teacher too.")] = True,
    allow_weak_teacher: Annotated[bool, typer.Option("--allow-weak-teacher", help="Go on at chance level.")] = False,
    teacher_store: Annotated[
        str | None,
        typer.Option(
            help="Folder of the teacher's stored knowledge; auto: the one that fits, written if there is none."
        ),
    ] = None,
    store_dtype: Dtype = "float16",
    mixed_precision: Precision = "no",
    tracker: Tracker = None,
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Distil a teacher into a student, and report what it kept and what it saved."""
    from tutelage import api

    report = api.distill(
        teacher,
        out,
        team=team or [],
        method=method,
        student=student,
        stage=_one_of("--stage", stage, ("task", "general")),
        without=without,
        corpus=corpus,
        candidates=candidates,
        seed=seed,
        baseline=baseline,
        allow_weak_teacher=allow_weak_teacher,
        teacher_store=teacher_store,
        store_dtype=store_dtype,
        mixed_precision=mixed_precision,
        tracker=tracker,
        settings=settings or [],
        resume=resume,
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, unlabeled, max_train, max_length),
    )
    _show(report, out, as_json)


@app.command(
    epilog="Example: tutelage augment --proposer bert-base-uncased --vectors glove.6B.300d.txt --task mrpc --out words/mrpc"
)
def augment(
    proposer: Annotated[str, typer.Option(help="Masked language model that proposes words: a folder or a hub id.")],
    out: Annotated[str, typer.Option(help="Folder for the candidates; must be new.")],
    vectors: Annotated[
        str | None, typer.Option(help="Word vectors for words of several pieces: GloVe's text format, or .npz.")
    ] = None,
    k: Annotated[int, typer.Option(help="Candidates for each word.")] = 15,
    context: Annotated[
        str,
        typer.Option(help="masked_only: the text; masked_plus_original: and the text once more, as TinyBERT's code."),
    ] = "masked_only",
    filtered: Annotated[
        bool, typer.Option("--filtered/--unfiltered", help="Leave out stop words, punctuation and the word itself.")
    ] = True,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, augmented too.")] = None,
    max_train: MaxTrain = None,
    mixed_precision: Precision = "no",
    as_json: Json = False,
) -> None:
    """Find words that may stand for those of the training texts; training draws augmented texts from them."""
    from tutelage import api

    result = api.augment(
        proposer,
        out,
        vectors=vectors,
        k=k,
        context=_one_of("--context", context, ("masked_only", "masked_plus_original")),
        filtered=filtered,
        mixed_precision=mixed_precision,
        quiet=as_json,
        **_data(task, data_dir, train, None, text, text_pair, label, kind, unlabeled, max_train, None),
    )
    _list(result, as_json)


@app.command(
    epilog="Example: tutelage ablate tinybert --task mrpc --teacher teacher/ --general-teacher bert-base-uncased "
    "--corpus corpus/ --candidates words/mrpc --out runs/ablation"
)
def ablate(
    method: Annotated[str, typer.Argument(help="tinybert.")],
    teacher: Annotated[str, typer.Option(help="Teacher fine-tuned on the task.")],
    general_teacher: Annotated[str, typer.Option(help="Pretrained teacher of the general stage.")],
    corpus: Corpus,
    out: Annotated[str, typer.Option(help="Folder of the runs; a stopped command goes on when it is repeated.")],
    candidates: Annotated[str, typer.Option(help="Folder of `tutelage augment`.")],
    student: Annotated[str, typer.Option(help="Sizes.")] = "layers=4,hidden=312,intermediate=1200,heads=12",
    rows: Annotated[str | None, typer.Option(help="Only these rows: full,no_gd,no_attn")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row.")] = 3,
    general: Annotated[
        str | None, typer.Option(help="Folder of the general students, to share them between tasks.")
    ] = None,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Run a method with one part left out at a time, and print the tables of its paper."""
    from tutelage import api
    from tutelage.studies.ablation import ARMS, TABLES
    from tutelage.studies.study import interval

    if method != "tinybert":
        raise TutelageError(f"there are no ablation tables of {method!r}; use tinybert")
    found = api.ablate(
        out,
        teacher=teacher,
        general_teacher=general_teacher,
        corpus=corpus,
        candidates=candidates,
        student=student,
        arms=ARMS if rows is None else [row.strip() for row in rows.split(",")],
        seeds=seeds,
        general=general,
        mixed_precision=_one_of("--mixed-precision", mixed_precision, ("no", "bf16", "fp16")),
        settings=settings or [],
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, None, max_train, max_length),
    )
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    console = Console()
    for title, names in TABLES.items():
        table = Table("", f"{found.metric} on {found.task}", "against full", "seeds", title=title)
        for name in names:
            if name in found.rows:
                mean, half = interval(found.rows[name].values(found.metric))
                less, margin = found.against_full(name) if "full" in found.rows else (0.0, None)
                against = "" if name == "full" or "full" not in found.rows else _with_margin(less, margin, sign=True)
                table.add_row(name, _with_margin(mean, half), against, str(len(found.rows[name].scores)))
        if table.row_count:
            console.print(table)


def _with_margin(value: float, margin: float | None, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.4f}" + ("" if margin is None else f" ± {margin:.4f}")


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise TutelageError(f"{option} {value!r} is unknown; use {' or '.join(choices)}")
    return value


def _data(
    task: str | None,
    data_dir: str | None,
    train: str | None,
    dev: str | None,
    text: str,
    text_pair: str | None,
    label: str,
    kind: str | None,
    unlabeled: str | None,
    max_train: int | None,
    max_length: int | None,
) -> dict[str, Any]:
    return dict(locals())


@app.command(epilog="Example: tutelage evaluate runs/a/student --task sst2 --json")
def evaluate(
    model: Annotated[str, typer.Argument(help="A fine-tuned model: a folder or a hub id.")],
    task: Task = None,
    data_dir: DataDir = None,
    train: Annotated[str | None, typer.Option(help="Training file, for the names of the labels.")] = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    as_json: Json = False,
) -> None:
    """Score a model on the dev data of a task, or on a file of your own (--dev)."""
    from tutelage import api

    # Files: train only names the labels, and the file to score may do that itself.
    train = None if task else train or dev
    data = _data(task, data_dir, train, dev, text, text_pair, label, kind, None, None, None)
    result = api.evaluate(model, quiet=as_json, **data)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = Table("part", "metric", "score")
    for part, scores in result["scores"].items():
        for metric, value in scores.items():
            table.add_row(part, metric, f"{value:.4f}")
    Console().print(table)


@app.command(epilog="Example: tutelage crossfit --model bert-base-uncased --task mrpc --folds 5 --out folds/mrpc")
def crossfit(
    model: Annotated[str, typer.Option(help="Checkpoint to start each fold from: a folder or a hub id.")],
    out: Annotated[str, typer.Option(help="Folder of the folds; a stopped command goes on when it is repeated.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts of the training texts.")] = 5,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-5,
    seed: Seed = 0,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Predict every training text by a model that has not learnt from it; Pea-KD's verdicts can be made of that."""
    from tutelage import api

    found = api.crossfit(
        model,
        out,
        folds=folds,
        epochs=epochs,
        lr=lr,
        seed=seed,
        mixed_precision=mixed_precision,
        settings=settings or [],
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, None, max_train, max_length),
    )
    _list(found, as_json)


team_app = typer.Typer(help="Make and compare teams of teachers.", no_args_is_help=True)


app.add_typer(team_app, name="team")


@team_app.command(
    "train",
    epilog="Example: tutelage team train --model bert-base-uncased --task mrpc --member seed=0 --member layers=6,seed=1,lr=1e-4 "
    "--member only=1/2,seed=2 --out team/",
)
def team_train(
    model: Annotated[str, typer.Option(help="Checkpoint to start each teacher from: a folder or a hub id.")],
    out: Annotated[str, typer.Option(help="Folder of the teachers; a stopped command goes on when it is repeated.")],
    member: Annotated[
        list[str] | None,
        typer.Option(
            help="How one teacher differs: model, layers, seed, epochs, lr, only=1/2 (a part of the texts), noise=0.5 (wrong "
            "labels). Without any: five of usual kinds."
        ),
    ] = None,
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-5,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Fine-tune several teachers on a task, each of its own kind; autoskdbert, skdbert and ensemble learn from them."""
    from tutelage import api

    found = api.train_team(
        model,
        out,
        members=member or [],
        epochs=epochs,
        lr=lr,
        mixed_precision=_one_of("--mixed-precision", mixed_precision, ("no", "bf16", "fp16")),
        settings=settings or [],
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, None, max_train, max_length),
    )
    _compared(found, as_json)


@team_app.command("show", epilog="Example: tutelage team show team/")
def team_show(
    team: Annotated[list[str], typer.Argument(help="A folder of `tutelage team train`, or teachers by name.")],
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    as_json: Json = False,
) -> None:
    """Compare teachers: scores, agreement, diversity."""
    from tutelage import api

    data = _data(task, data_dir, train, dev, text, text_pair, label, kind, None, max_train, max_length)
    _compared(api.show_team(team, quiet=as_json, **data), as_json)


def _compared(found: dict[str, Any], as_json: bool) -> None:
    """A team's scores and who agrees with whom."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    metric, part, members = found["metric"], found["part"], found["members"]
    alike = found.get("agreement", [[] for _ in members])  # of answers token by token nothing of this kind is told
    heads = [f"= {number}" for number in range(1, len(alike[0]) + 1)]
    table = Table("", "teacher", "M parameters", f"{metric}, {part}", f"{metric}, held-out train", *heads)
    for row, one in enumerate(members):
        scores = [f"{one['scores'][place][metric]:.4f}" for place in (part, "held")]
        agreement = [f"{value:.2f}" for value in alike[row]]
        table.add_row(str(row + 1), one["name"], f"{one['parameters'] / 1e6:.1f}", *scores, *agreement)
    console = Console()
    console.print(table)
    lines = [f"mean disagreement {found['disagreement']:.3f}"] if "disagreement" in found else []
    if "ensemble" in found:
        lines.append(f"the mean of all: {found['ensemble']:.4f} accuracy")
        lines.append(f"at least one is right on {found['one_right']:.4f}, all on {found['all_right']:.4f}")
    if lines:
        console.print(f"On {part}: {'; '.join(lines)}", soft_wrap=True)


@app.command(
    epilog="Example: tutelage chain --teacher teacher/ --through layers=9 --through layers=6 --student layers=3 --task mrpc "
    "--out runs/chain"
)
def chain(
    teacher: Annotated[str, typer.Option(help="Fine-tuned teacher: a folder or a hub id.")],
    out: Annotated[str, typer.Option(help="Folder of the runs; a stopped command goes on when it is repeated.")],
    through: Annotated[list[str], typer.Option(help="A teacher assistant, as --student; from large to small.")],
    student: Annotated[str, typer.Option(help="The student, as for distill.")] = "layers=3",
    method: Annotated[str, typer.Option(help="One of `tutelage methods`.")] = "kd",
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, labelled by the teacher.")] = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    seed: Seed = 0,
    allow_weak_teacher: Annotated[bool, typer.Option("--allow-weak-teacher", help="Go on at chance level.")] = False,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Distil through teacher assistants (TAKD): each student is the next one's teacher."""
    from tutelage import api

    reports = api.chain(
        teacher,
        out,
        through=through,
        student=student,
        method=method,
        seed=seed,
        allow_weak_teacher=allow_weak_teacher,
        mixed_precision=mixed_precision,
        settings=settings or [],
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, unlabeled, max_train, max_length),
    )
    if as_json:
        print(json.dumps(reports, indent=1))
        return
    table = Table("", reports[0]["metric"], "parameters")
    entries = [("teacher", reports[0]["teacher"])]
    entries += [(f"assistant {number}", report["student"]) for number, report in enumerate(reports[:-1], start=1)]
    for name, entry in [*entries, ("student", reports[-1]["student"])]:
        table.add_row(name, f"{entry['score']:.4f}", f"{entry['parameters'] / 1e6:.1f} M")
    Console().print(table)
    Console().print(f"Student: {reports[-1]['student']['name']}", soft_wrap=True)


@app.command(epilog="Example: tutelage export runs/pea/student --standard --out plain/")
def export(
    model: Annotated[str, typer.Argument(help="Student with shared layers: a folder or a hub id.")],
    out: Annotated[str, typer.Option(help="Folder for the checkpoint; must be new.")],
    standard: Annotated[
        bool, typer.Option("--standard", help="As an ordinary checkpoint, the only form there is.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a student with shared layers as an ordinary checkpoint, with each layer as often as it is run."""
    from tutelage import api

    _list(api.export(model, out), as_json)


@app.command(
    "attention-report",
    epilog="Example: tutelage attention-report teacher/ runs/a/student texts.txt --out attention.html",
)
def attention_report(
    teacher: Annotated[str, typer.Argument(help="A folder or a hub id; any head, or none.")],
    student: Annotated[str, typer.Argument(help="The same, with the teacher's tokenizer.")],
    path: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="Texts that were not trained on: .txt, one a line, or CSV, TSV, JSONL, Parquet."
        ),
    ],
    out: Annotated[str | None, typer.Option(help="Write a page with pictures: FILE.html.")] = None,
    text: Text = "text",
    max_texts: Annotated[int, typer.Option(help="Draw so many texts if there are more.")] = 256,
    max_length: Annotated[
        int | None, typer.Option(help="Longest input in tokens; without it 128, or the models' positions.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How much of a teacher's attention a student shows: divergence and cosine similarity, head by head."""
    from tutelage import api
    from tutelage.report.attention import explanation, verdict

    found = api.attention_report(
        teacher, student, path, out, column=text, max_texts=max_texts, max_length=max_length, quiet=as_json
    )
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    columns = ["best_match", "uniform"] if found.same_head is None else ["same_head", "best_match", "uniform"]
    table = Table("\nlayer", title="Cosine similarity, and KL in nats: means over heads")
    for column in columns:
        table.add_column(f"{column.replace('_', ' ')}\ncosine", justify="right")
        table.add_column("\nKL", justify="right")
    for name, means in [*((layer.name, layer) for layer in found.layers), ("mean", found)]:
        if name == "mean":
            table.add_section()
        parts = [getattr(means, column) for column in columns]
        table.add_row(name, *(f"{number:.3f}" for part in parts for number in (part.cosine, part.kl)))
    console = Console()
    console.print(table)
    for line in (verdict(found), *explanation(found)):
        console.print(line, markup=False, highlight=False)
    if out is not None:
        console.print(f"Page: {out}", markup=False, soft_wrap=True)


@app.command(epilog="Example: tutelage methods --json")
def methods(as_json: Json = False) -> None:
    """Which method uses what, computed from the recipes."""
    from tutelage.methods import METHODS
    from tutelage.recipes.table import COLUMNS, method_row

    rows = [method_row(make()) for make in METHODS.values()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="What each method takes from the teacher, and how", padding=(0, 0, 0, 1))
    for column in ("method", "start", "stage", "on", "learns"):
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "on"))
    for row in rows:
        for index, stage in enumerate(row["stages"]):
            learns = "; ".join(f"{part}: {stage[part]}" for part in COLUMNS if stage[part])
            first = (row["method"], row["init"]) if index == 0 else ("", "")
            table.add_row(*first, stage["stage"], stage["data"], learns)
    Console().print(table)


@app.command(epilog="Example: tutelage recipe tinybert > my.yaml")
def recipe(
    method: Annotated[str, typer.Argument(help="One of `tutelage methods`.")],
    teacher: Annotated[str | None, typer.Option(help="Written into the run.")] = None,
    task: Task = None,
    stage: Annotated[
        str | None, typer.Option(help="task or general; without it: task, if the method has such.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Written into the run.")] = None,
) -> None:
    """Print a method as YAML: edit it, then `tutelage run` it."""
    from tutelage.api import method_recipe, run_config
    from tutelage.recipes.config import to_yaml

    found = method_recipe(method, task)
    stage = stage or ("task" if any(isinstance(part.data, str) for part in found.stages) else "general")
    found = found.part(_one_of("--stage", stage, ("task", "general")))
    print(to_yaml(run_config(found, {"task": task}, teacher=teacher, out=out)), end="")


@app.command(
    epilog="Example: tutelage run my.yaml --set teacher=teacher/ --set task=sst2 --set out=runs/b "
    "--set stages.prediction.temperature=2"
)
def run(
    path: Annotated[Path, typer.Argument(help="A YAML file from `tutelage recipe`, or config.yaml of a run.")],
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Carry out a run that a YAML file describes."""
    from tutelage.recipes.config import from_yaml
    from tutelage.recipes.settings import with_settings
    from tutelage.run.run import run as carry_out

    config = with_settings(from_yaml(path), settings or [])
    _show(carry_out(config, resume=resume, quiet=as_json), str(config.out), as_json)


@app.command(epilog="Example: tutelage demo --out demo-run")
def demo(
    out: Annotated[str, typer.Option(help="Folder for the result; must be new or empty.")] = "demo-run",
    as_json: Json = False,
) -> None:
    """A real BERT, real text, no network, about five minutes on two cores: fine-tune, distil, compare, report."""
    from tutelage.studies.demo import demo as run_demo

    _show(run_demo(Path(out), quiet=as_json), str(Path(out) / "distilled"), as_json)


@app.command(
    "search-knowledge",
    epilog="Example: tutelage search-knowledge --teacher teacher/ --task sst2 --student layers=3 --out search/ --under 10000",
)
def search_knowledge(
    teacher: Annotated[str, typer.Option(help="Fine-tuned teacher: a folder or a hub id.")],
    out: Annotated[
        str, typer.Option(help="Folder for the search; must be new. A killed command goes on when repeated.")
    ],
    student: Annotated[str | None, typer.Option(help="As for distill; without it the method's own (ROSITA6).")] = None,
    trials: Annotated[int, typer.Option(help="How many configurations to try.")] = 24,
    seeds: Annotated[int, typer.Option(help="Runs of each configuration that comes to the last rung.")] = 3,
    under: Annotated[
        float | None, typer.Option(help="Name the best configuration of at most so many bytes per example.")
    ] = None,
    hidden_epochs: Annotated[int, typer.Option(help="Epochs on hidden states, in the last rung.")] = 3,
    prediction_epochs: Annotated[int, typer.Option(help="Epochs on predictions, in the last rung.")] = 2,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; without it the method's.")] = None,
    dtype: Dtype = "float16",
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, stored and learnt too.")] = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    seed: Seed = 0,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Find how little of a teacher's hidden states is enough: score against bytes per example."""
    from tutelage.studies import search

    found = search.search_knowledge(
        teacher,
        out,
        student=student,
        trials=trials,
        seeds=seeds,
        seed=seed,
        hidden_epochs=hidden_epochs,
        prediction_epochs=prediction_epochs,
        lr=lr,
        mixed_precision=mixed_precision,
        dtype=dtype,
        quiet=as_json,
        settings=settings or [],
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, unlabeled, max_train, max_length),
    )
    best = None if under is None else found.best_under(under)
    if as_json:
        chosen = {} if best is None else {"best_under": best.model_dump(mode="json")}
        print(json.dumps({**found.model_dump(mode="json"), **chosen}, indent=1))
        return
    columns = ("kept", "bytes per example", f"{found.metric}, selection", "by seed", "dev")
    table = Table(*columns, title="The best for their size")
    for trial in found.front:
        by_seed = " ".join(f"{score:.4f}" for score in trial.scores.values())
        size = f"{trial.bytes_per_example:,.0f}"
        table.add_row(trial.name, size, f"{trial.score:.4f}", by_seed, f"{trial.dev_score:.4f}")
    console = Console()
    console.print(table)
    if best is not None:
        early = "" if best.rung == len(found.rungs) else ", of shorter training"
        console.print(
            f"Best of at most {under:,.0f} bytes per example: {best.name}, {best.bytes_per_example:,.0f} bytes, "
            f"{found.metric} {best.score:.4f}{early}; --method minimum_knowledge --set hidden.keep={best.keep} "
            f"--set hidden.top={best.top}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"Picture: {out}/search.svg", markup=False, soft_wrap=True)


corpus_app = typer.Typer(help="Text without labels, tokenised once.", no_args_is_help=True)


app.add_typer(corpus_app, name="corpus")


@corpus_app.command(
    "build",
    epilog="Example: tutelage corpus build wiki.txt.gz hub:wikitext,config=wikitext-103-raw-v1 "
    "--tokenizer bert-base-uncased --out corpus/",
)
def corpus_build(
    sources: Annotated[
        list[str], typer.Argument(help="Text files: a paragraph a line, a blank line between documents; or hub:NAME.")
    ],
    tokenizer: Annotated[str, typer.Option(help="Whose tokens: a folder or a hub id of the model to be taught.")],
    out: Annotated[str, typer.Option(help="Folder for the corpus; must be new.")],
    split: Annotated[str, typer.Option(help="sentences: paragraphs are split; lines: each line is one.")] = "sentences",
    as_json: Json = False,
) -> None:
    """Turn plain text into a corpus for general distillation and pretraining."""
    from tutelage import api

    split = _one_of("--split", split, ("sentences", "lines"))
    _list(api.build_corpus(sources, out, tokenizer=tokenizer, split=split, quiet=as_json), as_json)  # type: ignore[arg-type]


@corpus_app.command("inspect", epilog="Example: tutelage corpus inspect corpus/ --json")
def corpus_inspect(path: Annotated[str, typer.Argument(help="A corpus.")], as_json: Json = False) -> None:
    """Say what a corpus holds."""
    from tutelage.data.corpus.reading import Corpus, describe

    _list(describe(Corpus(path)), as_json)


store_app = typer.Typer(
    help="The teacher's knowledge on disk: asked once, read by every student.", no_args_is_help=True
)


app.add_typer(store_app, name="store")


@store_app.command(
    "write",
    epilog="Example: tutelage store write --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3 "
    "--whole --out stores/sst2",
)
def store_write(
    teacher: Annotated[str, typer.Option(help="Fine-tuned teacher: a folder or a hub id.")],
    out: Annotated[
        str, typer.Option(help="Folder for the store; must be new. A killed command goes on when repeated.")
    ],
    method: StoreMethod = "kd",
    student: StoreStudent = None,
    whole: Whole = False,
    dtype: Dtype = "float16",
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, stored too.")] = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    candidates: Words = None,
    allow_weak_teacher: Annotated[bool, typer.Option("--allow-weak-teacher", help="Go on at chance level.")] = False,
    mixed_precision: Precision = "no",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Run a teacher once over the data and keep what a method needs of it."""
    from tutelage import api

    result = api.write_store(
        teacher,
        out,
        method=method,
        student=student,
        whole=whole,
        dtype=dtype,
        allow_weak_teacher=allow_weak_teacher,
        mixed_precision=mixed_precision,
        settings=settings or [],
        candidates=candidates,
        quiet=as_json,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, unlabeled, max_train, max_length),
    )
    _list(result, as_json)


@store_app.command(
    "plan",
    epilog="Example: tutelage store plan --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3",
)
def store_plan(
    teacher: Annotated[str, typer.Option(help="Fine-tuned teacher: a folder or a hub id.")],
    method: StoreMethod = "minimum_knowledge",
    student: StoreStudent = None,
    whole: Whole = False,
    dtype: Dtype = "float16",
    task: Task = None,
    data_dir: DataDir = None,
    train: Train = None,
    dev: Dev = None,
    text: Text = "text",
    text_pair: TextPair = None,
    label: Label = "label",
    kind: KindOption = None,
    unlabeled: Annotated[str | None, typer.Option(help="File of text without labels, stored too.")] = None,
    max_train: MaxTrain = None,
    max_length: MaxLength = None,
    candidates: Words = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Say what a store would cost and earn: bytes, the teacher's operations, after how many epochs it has paid."""
    from tutelage import api

    result = api.plan_store(
        teacher,
        method=method,
        student=student,
        whole=whole,
        dtype=dtype,
        settings=settings or [],
        candidates=candidates,
        **_data(task, data_dir, train, dev, text, text_pair, label, kind, unlabeled, max_train, max_length),
    )
    _list(result, as_json)


@store_app.command("inspect", epilog="Example: tutelage store inspect stores/sst2 --json")
def store_inspect(path: Annotated[str, typer.Argument(help="A store.")], as_json: Json = False) -> None:
    """Say what a store holds, and of whom."""
    from tutelage.knowledge.store.reading import Store
    from tutelage.teachers.knowledge import describe

    _list(describe(Store(path)), as_json)


@store_app.command("verify", epilog="Example: tutelage store verify stores/sst2 --teacher teacher/")
def store_verify(
    path: Annotated[str, typer.Argument(help="A store.")],
    teacher: Annotated[str | None, typer.Option(help="See whether this teacher wrote it.")] = None,
) -> None:
    """Read every byte of a store and compare it with its checksums."""
    from tutelage.run.stores import verify

    verify(Path(path), teacher)
    Console().print(f"{path} is whole", markup=False, soft_wrap=True)


@store_app.command(
    "compact",
    epilog="Example: tutelage store compact stores/sst2 --student layers=3 --set hidden.keep=1l_10t_0.1h --out stores/small",
)
def store_compact(
    path: Annotated[str, typer.Argument(help="A larger store.")],
    out: Annotated[str, typer.Option(help="Folder for the smaller store; must be new.")],
    method: StoreMethod = "minimum_knowledge",
    student: StoreStudent = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Cut a store down to what a method needs; the teacher is not asked again."""
    from tutelage import api

    result = api.compact_store(path, out, method=method, student=student, settings=settings or [], quiet=as_json)
    _list(result, as_json)


def _list(values: dict[str, Any], as_json: bool) -> None:
    """Names and values, one a line."""
    if as_json:
        print(json.dumps(values, indent=1))
        return
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(name.replace("_", " "), shown)
    Console().print(table)


def _show(report: dict[str, Any], out: str, as_json: bool) -> None:
    """The result as a table, and where to read on; or as JSON."""
    if as_json:
        print(json.dumps(report, indent=1))
        return
    if report.get("general"):
        table = Table("stage", "loss on text held out", "before", "after", title=report["title"])
        for stage in report["stages"]:
            for name, value in stage["held_out"]["after"].items():
                table.add_row(stage["name"], name, f"{stage['held_out']['before'][name]:.4g}", f"{value:.4g}")
        Console().print(table)
        Console().print(f"Student: {out}/student; report: {out}/report.html", soft_wrap=True)
        return
    table = Table("", report["metric"], "parameters", "GFLOP", "ms, batch 1", "ms, batch 32", title=report["title"])
    for who in ("teacher", "student", "baseline"):
        entry = report[who]
        if entry is not None:
            other = "slices of the teacher" if report.get("inherited") else "student, not distilled"
            name = {"baseline": other}.get(who, who)
            latency = entry["latency_ms"] or {}
            numbers = (f"{latency[size]:.1f}" if latency else "-" for size in ("1", "32"))
            size = f"{entry['parameters'] / 1e6:.1f} M"
            table.add_row(name, f"{entry['score']:.4f}", size, f"{entry['flops'] / 1e9:.3f}", *numbers)
    console = Console()
    console.print(table)
    student = report["student"]
    if student.get("retention") is not None:
        faster = f" and is {student['speedup']:.1f}x as fast" if student.get("speedup") else ""
        console.print(f"The student keeps {student['retention']:.1%} of the teacher's {report['metric']}{faster}.")
    console.print(f"Report: {out}/report.html", soft_wrap=True)


def main() -> None:
    """Run the command line; mistakes of the user end in one line and exit code 2."""
    try:
        app()
    except TutelageError as error:
        Console(stderr=True, highlight=False).print(f"tutelage: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
