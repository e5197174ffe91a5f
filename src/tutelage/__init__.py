"""Compress BERT-family models by teaching: a fine-tuned teacher and text in, a small fast student and a report out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tutelage.api import (
        attention_report,
        chain,
        compact_store,
        crossfit,
        distill,
        evaluate,
        export,
        finetune,
        plan_store,
        show_team,
        train_team,
        write_store,
    )
    from tutelage.config import DataConfig, RunConfig
    from tutelage.errors import TutelageError
    from tutelage.knowledge.store import Store
    from tutelage.methods import METHODS
    from tutelage.objectives.terms import (
        AttentionScores,
        Embeddings,
        FirstToken,
        HardLabels,
        Hidden,
        HiddenKnowledge,
        LogitsMSE,
        SoftLabels,
    )
    from tutelage.recipe import Recipe, Stage
    from tutelage.runs import run
    from tutelage.search import search_knowledge
    from tutelage.students.build import BiLSTM, Checkpoint, Copied, Fresh, Inherited, Pruned, Shared, Sliced

_HOMES = {
    "tutelage.api": (
        "attention_report",
        "chain",
        "compact_store",
        "crossfit",
        "distill",
        "evaluate",
        "export",
        "finetune",
        "plan_store",
        "show_team",
        "train_team",
        "write_store",
    ),
    "tutelage.config": ("DataConfig", "RunConfig"),
    "tutelage.errors": ("TutelageError",),
    "tutelage.knowledge.store": ("Store",),
    "tutelage.methods": ("METHODS",),
    "tutelage.objectives.terms": (
        "AttentionScores",
        "Embeddings",
        "FirstToken",
        "HardLabels",
        "Hidden",
        "HiddenKnowledge",
        "LogitsMSE",
        "SoftLabels",
    ),
    "tutelage.recipe": ("Recipe", "Stage"),
    "tutelage.runs": ("run",),
    "tutelage.search": ("search_knowledge",),
    "tutelage.students.build": ("BiLSTM", "Checkpoint", "Copied", "Fresh", "Inherited", "Pruned", "Shared", "Sliced"),
}

__all__ = [
    "METHODS",
    "AttentionScores",
    "BiLSTM",
    "Checkpoint",
    "Copied",
    "DataConfig",
    "Embeddings",
    "FirstToken",
    "Fresh",
    "HardLabels",
    "Hidden",
    "HiddenKnowledge",
    "Inherited",
    "LogitsMSE",
    "Pruned",
    "Recipe",
    "RunConfig",
    "Shared",
    "Sliced",
    "SoftLabels",
    "Stage",
    "Store",
    "TutelageError",
    "attention_report",
    "chain",
    "compact_store",
    "crossfit",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "plan_store",
    "run",
    "search_knowledge",
    "show_team",
    "train_team",
    "write_store",
]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `tutelage --help` need not wait for torch and transformers.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
