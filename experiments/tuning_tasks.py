"""The tasks on which defaults are chosen, of SQuAD's questions and Wikipedia's sentences: none of those that results report.

* ``topics``: to which of 40 articles a question belongs (one text, 40 classes)
* ``order``: whether two neighbouring words of a sentence changed places (one text, 2 classes)

``topics-1000`` is ``topics`` with 1,000 of its training texts. Besides there are 4,000 further texts without labels (``more``), and
4,000 to score where the 1,000 of ``dev`` say too little (``test``).
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np

from tutelage.data.config import DataConfig
from tutelage.studies.script import write_rows

TASKS = ("topics", "order")
TRAIN, DEV, MORE, TEST = 4000, 1000, 4000, 4000
PARTS = {"train": TRAIN, "dev": DEV, "more": MORE, "test": TEST}
ARTICLES = 40
WORDS = (6, 25)
"""Fewest and most words of a sentence of ``order``."""


def tuning_data(folder: Path, task: str, squad: Path, corpus: Path) -> DataConfig:
    """A task's files in ``folder``, written if they are not there."""
    task, _, few = task.partition("-")
    files = {part: folder / f"{task}-{part}.csv" for part in PARTS}
    if not all(path.exists() for path in files.values()):
        found = order(corpus) if task == "order" else topics(articles(squad))
        for part, rows in found.items():
            names = ("text",) if part == "more" else ("text", "label")
            write_rows(files[part], [row[: len(names)] for row in rows], names)
    return DataConfig(train=str(files["train"]), dev=str(files["dev"]), max_train=int(few) if few else None)


Rows = dict[str, list[tuple[str, ...]]]


def articles(squad: Path) -> dict[str, list[list[str]]]:
    """By title the questions of each paragraph; the articles with the most questions first."""
    with gzip.open(squad, "rt", encoding="utf-8") as file:
        data = json.load(file)["data"]
    found = {
        article["title"]: [[" ".join(qa["question"].split()) for qa in p["qas"]] for p in article["paragraphs"]]
        for article in data
    }
    return dict(sorted(found.items(), key=lambda item: -sum(map(len, item[1]))))


def topics(found: dict[str, list[list[str]]]) -> Rows:
    rng, rows = np.random.default_rng(1), []
    for title in list(found)[:ARTICLES]:
        questions = sorted({question for paragraph in found[title] for question in paragraph})
        some = rng.permutation(questions)[: sum(PARTS.values()) // ARTICLES]
        rows.append([(str(question), title) for question in some])
    parts, begin = {}, 0
    for part, count in PARTS.items():
        end = begin + count // ARTICLES
        parts[part] = [row for some in rows for row in some[begin:end]]
        begin = end
    return parts


def order(corpus: Path) -> Rows:
    rng, sentences = np.random.default_rng(3), []
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        for line in file:
            found = [s for s in re.split(r"(?<=[.!?]) ", line.strip()) if WORDS[0] <= len(s.split()) <= WORDS[1]]
            if found:
                sentences.append(found[int(rng.integers(len(found)))].split())
            if len(sentences) == sum(PARTS.values()):
                break
    rows = []
    for number, words in enumerate(sentences):
        if number % 2:
            place = int(rng.integers(len(words) - 1))
            words[place], words[place + 1] = words[place + 1], words[place]
        rows.append((" ".join(words), "changed" if number % 2 else "right"))
    ends = np.cumsum([*PARTS.values()])
    return {part: rows[end - count : end] for (part, count), end in zip(PARTS.items(), ends, strict=True)}
