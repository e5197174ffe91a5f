"""Substitution candidates for the words of a task's texts."""

from __future__ import annotations

from pathlib import Path

import transformers

from tutelage.data.augmentation.candidates import CandidatesManifest, Context
from tutelage.data.augmentation.propose import propose
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.config import DataConfig
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError
from tutelage.progress import Display
from tutelage.recipes.choices import Precision
from tutelage.run.workspace import new_accelerator
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
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    accelerator, display = new_accelerator(mixed_precision), Display(quiet)
    with display:
        source = Source(proposer, "masked_lm")
        words = None if vectors is None else WordVectors.read(Path(vectors))
        texts = load_data(data)
        parts = [texts.train, *([texts.unlabeled] if texts.unlabeled else [])]
        if data.train and not data.dev:  # a run may be given a dev file, and then trains on all of this one
            parts += texts.dev.values()
        kind = kind_of(texts.kind)
        strings = [
            text for part in parts for text in (*part.texts, *(() if kind.answers_in_pair else part.pairs or ()))
        ]
        fitted = fitted_tokenizer(source.tokenizer, source.model)
        with accelerator.autocast():
            found = propose(
                strings,
                source.model.to(accelerator.device),
                fitted,
                words,
                proposer=proposer,
                k=k,
                context=context,
                filtered=filtered,
                advance=lambda count, total: display.advance("words", total, count),
                say=display.say,
            )
        found.save(Path(out))
    return found.manifest
