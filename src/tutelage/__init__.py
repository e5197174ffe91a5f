"""Compress BERT-family models by teaching: a fine-tuned teacher and text in, a small fast student and a report out."""

from importlib import import_module
from typing import Any

from tutelage.version import __version__

_HOMES = {
    "tutelage.api": (
        "ablate",
        "attention_report",
        "augment",
        "build_corpus",
        "chain",
        "compact_store",
        "crossfit",
        "distill",
        "evaluate",
        "export",
        "finetune",
        "plan_store",
        "pretrain",
        "show_team",
        "train_team",
        "write_store",
    ),
    "tutelage.data.config": ("DataConfig",),
    "tutelage.errors": ("TutelageError",),
    "tutelage.knowledge.store.reading": ("Store",),
    "tutelage.methods": ("METHODS",),
    "tutelage.objectives.attention": ("AttentionScores",),
    "tutelage.objectives.hidden": ("Embeddings", "FirstToken", "Hidden", "Pooled"),
    "tutelage.objectives.hidden_knowledge": ("HiddenKnowledge",),
    "tutelage.objectives.predictions": ("HardLabels", "LogitsMSE", "SoftLabels"),
    "tutelage.recipes.config": ("RunConfig",),
    "tutelage.recipes.recipe": ("Recipe", "Stage"),
    "tutelage.run.run": ("run",),
    "tutelage.students.specs": (
        "BiLSTM",
        "Checkpoint",
        "Copied",
        "Fresh",
        "Inherited",
        "Pruned",
        "Shared",
        "Sliced",
    ),
    "tutelage.studies.search": ("search_knowledge",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `tutelage --help` need not wait for torch and transformers.
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
