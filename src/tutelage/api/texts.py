"""The commands on texts: augmentation and corpora."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tutelage.data.signature import takes_data
from tutelage.recipes.choices import Precision

if TYPE_CHECKING:
    from tutelage.data.augmentation.candidates import CandidatesManifest
    from tutelage.data.config import DataConfig, DataOptions, Table
    from tutelage.report.results import CorpusSummary
    from tutelage.run.inputs import Model, Splits
from tutelage.api.common import FILES, FilePath, Plugin, data_config, place, place_or_none, read_plugins, several


@takes_data(*(name for name in FILES if name != "dev"), "unlabeled", "max_train")
def augment(
    proposer: Model,
    out: FilePath,
    *,
    vectors: FilePath | None = None,
    k: int = 15,
    context: Literal["masked_only", "masked_plus_original"] = "masked_only",
    filtered: bool = True,
    mixed_precision: Precision = "no",
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> CandidatesManifest:
    """Compute substitution candidates for every word of the training texts, from which augmentation samples.

    ``distill(..., candidates=out)`` uses them. See :func:`tutelage.data.augmentation.propose.propose`.

    Args:
        proposer: Masked language model that proposes words: a folder or a hub id.
        out: Folder for the candidates; must be new.
        vectors: Word vectors for words of several pieces: GloVe's text format, or .npz with words and vectors. Default: such
            words stay as they are.
        k: Candidates for each word.
        context: What the proposer reads: the masked text, or also the original text, as TinyBERT's code does.
        filtered: Leave out stop words, punctuation and the word itself.
        mixed_precision: Precision of the proposer; no is float32, auto is bf16 where it is faster here.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        unlabeled: File of further texts to propose words for, without labels.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage augment --proposer bert-base-uncased --vectors glove.6B.300d.txt --task mrpc --out words/mrpc
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies.augmentation import augment as augmented

    read_plugins(plugins)
    with Inputs() as inputs:
        return augmented(
            inputs.model(proposer, "proposer"),
            place(out),
            data_config(inputs.data(data, options)),
            vectors=place_or_none(vectors),
            k=k,
            context=context,
            filtered=filtered,
            mixed_precision=mixed_precision,
            quiet=quiet,
        )


def build_corpus(
    sources: FilePath | Table | Sequence[FilePath | Table],
    out: FilePath,
    *,
    tokenizer: FilePath | Any,
    split: Literal["sentences", "lines"] = "sentences",
    quiet: bool = False,
) -> CorpusSummary:
    """Tokenise plain text once into a corpus, for general distillation and pretraining.

    In Python a source may also be in memory: a ``datasets.Dataset`` (also a stream) or a frame with a column ``text``, or a list of
    texts within the list of sources, ``sources=[texts]``. Each text is a document. The tokenizer may be an object.

    Args:
        sources: Text files (.txt, .txt.gz) with a paragraph a line and a blank line between documents; or data sets on the Hub:
            hub:OWNER/NAME,config=..,split=train,column=text.
        out: Folder for the corpus; must be new.
        tokenizer: Tokenizer of the teacher: a folder or a hub id.
        split: What a line holds: sentences (a paragraph, which is split) or lines (one sentence).
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage corpus build wiki.txt.gz hub:wikitext,config=wikitext-103-raw-v1 --tokenizer bert-base-uncased --out corpus/
    """
    from tutelage.data.corpus import building
    from tutelage.data.processes import Processes
    from tutelage.report.results import CorpusSummary
    from tutelage.run.inputs import documents_in, tokenizer_in
    from tutelage.run.workspace import bench

    with bench(quiet) as desk:
        processes, count = Processes.of(desk.accelerator), desk.display.count
        texts = [place(one) if isinstance(one, str | os.PathLike) else documents_in(one) for one in several(sources)]
        known = processes.each(lambda: tokenizer_in(tokenizer))
        corpus = building.build(texts, Path(place(out)), known, split=split, advance=count, processes=processes)
    return CorpusSummary.of(corpus)


def inspect_corpus(path: FilePath) -> CorpusSummary:
    """Describe the content of a corpus.

    Args:
        path: Folder of `tutelage corpus build`.

    Raises:
        TutelageError: when it is not a corpus.

    Example: tutelage corpus inspect corpus/ --json
    """
    from tutelage.data.corpus.reading import Corpus
    from tutelage.report.results import CorpusSummary

    return CorpusSummary.of(Corpus(place(path)))
