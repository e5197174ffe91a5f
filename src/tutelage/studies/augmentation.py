"""Substitution candidates for the words of a task's texts."""

from __future__ import annotations

from pathlib import Path

from tutelage.data.augmentation.candidates import CandidatesManifest, Context
from tutelage.data.augmentation.propose import propose
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.config import DataConfig
from tutelage.data.processes import Processes
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError
from tutelage.recipes.choices import Precision
from tutelage.run.workspace import bench
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source


def augment(
    proposer: str,
    out: str,
    data: DataConfig,
    *,
    vectors: str | None,
    k: int,
    context: Context,
    filtered: bool,
    mixed_precision: Precision,
    quiet: bool,
) -> CandidatesManifest:
    """See :func:`tutelage.api.augment`."""
    if Path(out).exists():
        raise TutelageError(f"{out!r} already exists; remove it, or name another folder")
    with bench(quiet, mixed_precision) as desk:
        processes, display = Processes.of(desk.accelerator), desk.display

        def read() -> tuple[Source, WordVectors | None, list[str]]:
            source = Source(proposer, "masked_lm", role="proposer")
            source.model.to(desk.accelerator.device)
            words = None if vectors is None else WordVectors.read(Path(vectors))
            return source, words, _texts_of(data)

        source, words, texts = processes.each(read)
        fitted = fitted_tokenizer(source.tokenizer, source.model)
        with desk.accelerator.autocast():
            found = propose(
                texts,
                source.model,
                fitted,
                words,
                proposer=proposer,
                k=k,
                context=context,
                filtered=filtered,
                advance=lambda count, total: display.advance("words", total, count),
                say=display.say,
                processes=processes,
            )
        processes.first(lambda: found.save(Path(out)))
    return found.manifest


def _texts_of(data: DataConfig) -> list[str]:
    """The texts that a run may train on."""
    texts = load_data(data)
    parts = [texts.train, *([texts.unlabeled] if texts.unlabeled else [])]
    if data.train and not data.dev:  # a run may be given a dev file, and then trains on all of this one
        parts += texts.dev.values()
    pairs = not kind_of(texts.kind).answers_in_pair
    return [text for part in parts for text in (*part.texts, *((part.pairs or ()) if pairs else ()))]
