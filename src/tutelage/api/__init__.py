"""The commands as functions: ``from tutelage import finetune, distill, evaluate``.

This is the only place where an option of a command is declared: its name, its type and its default in the signature, its help
under ``Args:``. The command line is derived from it (:mod:`tutelage.cli`).

The texts are the fields of :class:`~tutelage.data.config.DataConfig` as keyword arguments (``task="sst2"``, or
``train="mine.csv"``, ``dev=...``, ``text=...``, ``label=...``), or ``data=DataConfig(...)``. ``train``, ``dev`` and
``unlabeled`` may be in memory: a ``datasets.Dataset``, a pandas ``DataFrame``, a dict of lists, ``(texts, labels)``; ``data`` may
be a ``datasets.DatasetDict``. A model is a folder, a hub id, a :class:`~tutelage.run.result.Result`, or ``(model, tokenizer)``.
Objects are written into ``OUT/inputs``, and the run's config.yaml names them there. One setting, method, student or plug-in needs
no list around it.

Nothing heavy is imported before a function is called.
"""

from tutelage.api.common import FILES, FilePath, Plugin
from tutelage.api.release import cascade, gate
from tutelage.api.runs import demo, distill, evaluate, export, finetune, methods, pretrain, recipe, run
from tutelage.api.serving import pack, push, serve, unpack
from tutelage.api.stores import compact_store, inspect_store, plan_store, verify_store, write_store
from tutelage.api.studies import (
    ablate,
    attention_report,
    chain,
    compare,
    search_knowledge,
    shrink,
)
from tutelage.api.teachers import crossfit, show_team, train_team
from tutelage.api.texts import augment, build_corpus, inspect_corpus

__all__ = [
    "FILES",
    "FilePath",
    "Plugin",
    "ablate",
    "attention_report",
    "augment",
    "build_corpus",
    "cascade",
    "chain",
    "compact_store",
    "compare",
    "crossfit",
    "demo",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "gate",
    "inspect_corpus",
    "inspect_store",
    "methods",
    "pack",
    "plan_store",
    "pretrain",
    "push",
    "recipe",
    "run",
    "search_knowledge",
    "serve",
    "show_team",
    "shrink",
    "train_team",
    "unpack",
    "verify_store",
    "write_store",
]
