"""Speed of augmentation against the published algorithm, one word at a time, on the same model in one process.

    pip install -e ".[demo]"
    python benchmarks/augment.py --data-dir path/to/glue

The texts are of QNLI, chosen so that they recur as they do in the whole data. The first row is TinyBERT's algorithm as in
its authors' code: for each word of one piece a forward pass of its own on the masked text and the text once more, scores of
all words at all places, all sorted; for the others the cosine to 100,000 word vectors, sorted, at each occurrence; then the
copies. Each row below changes one thing more, up to ``tutelage``'s defaults and those in bfloat16; the row "in batches" is
the same algorithm in ``tutelage``, and its candidates are compared with the first row's.

The model is the demo's with a random head for words, and the word vectors are random, of GloVe's size: speed does not depend on
their values. Writes ``results/augment.json`` and ``docs/results/augment_speed.md``.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import common
import networkx
import numpy as np
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from tutelage import anatomy
from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.augmentation.propose import STOP_WORDS, propose
from tutelage.data.augmentation.variants import Augmentation, variants
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.examples import Examples
from tutelage.data.readers.glue import load_glue
from tutelage.evaluation.speed import flops
from tutelage.studies.demo import pretrained
from tutelage.studies.pages import tabled
from tutelage.studies.script import Arguments, Results, Script, settings

K = 15
VECTORS = (100_000, 300)
"""Rows and numbers of the word vectors that the published code reads."""
WANTED = 20
"""How many times as fast is asked for."""


@dataclass(frozen=True)
class Published:
    """The published algorithm, and with which of its habits."""

    gradients: bool = True
    """A graph for gradients is recorded."""
    everywhere: bool = True
    """The head for words is applied at all places, and all words are sorted; else at the masked one, for the best."""
    repeated: bool = True
    """Texts, and words for the word vectors, are done again where they occur again."""


@dataclass
class Proposals:
    """Of one text: its words as the published code cuts them, and the candidates of those that have some."""

    words: list[str]
    candidates: dict[int, list[str]] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    """Of single pieces, by word the scores of the best and somewhat more."""


def split(tokenizer: Any, text: str) -> list[str]:
    """As BERT's basic tokenizer: lower case, without accents, cut at spaces and punctuation."""
    backend = tokenizer.backend_tokenizer
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def proposed(word: str) -> bool:
    """Whether the published code proposes for a word (of one piece by the model, else by vectors)."""
    return bool(re.fullmatch("[a-z]+", word)) and word not in STOP_WORDS


class Scene:
    """What all rows share."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, vectors: WordVectors, texts: list[str]) -> None:
        self.model, self.tokenizer, self.vectors, self.texts = model, tokenizer, vectors, texts
        self.row_of = {word: row for row, word in enumerate(vectors.words)}
        self.longest = anatomy.max_length(model.config)
        # Matrix operations of the model, by the length of the input, and of its head for words at one place.
        body, head, device = anatomy.base_of(model), nn.Module(), model.device
        head.forward = partial(anatomy.word_scores, model)
        self.body = cache(lambda length: flops(body, {"input_ids": torch.full((1, length), 1000, device=device)}))
        self.head = flops(head, {"hidden": torch.zeros(1, model.config.hidden_size, device=device)})

    def published(self, text: str, habits: Published, near: dict[str, list[str]]) -> Proposals:
        """Candidates of all words of a text."""
        words = split(self.tokenizer, text)
        cut = [self.tokenizer.tokenize(word) for word in words]
        found = Proposals(words)
        for place, word in enumerate(words):
            if not proposed(word):
                continue
            if len(cut[place]) == 1:
                found.candidates[place], found.scores[place] = self.by_model(cut, place, habits)
            else:
                if habits.repeated or word not in near:
                    near[word] = self.by_vectors(word)
                found.candidates[place] = near[word]
        return found

    def by_model(self, cut: list[list[str]], place: int, habits: Published) -> tuple[list[str], dict[str, float]]:
        original = [piece for pieces in cut for piece in pieces]
        before = sum(len(pieces) for pieces in cut[:place])
        masked = [*original[:before], "[MASK]", *original[before + 1 :]]
        tokens = ["[CLS]", *masked, "[SEP]", *original, "[SEP]"][: self.longest]
        types = ([0] * (len(masked) + 2) + [1] * (len(original) + 1))[: self.longest]
        if before + 1 >= len(tokens):
            return [], {}
        ids = torch.tensor([self.tokenizer.convert_tokens_to_ids(tokens)], device=self.model.device)
        inputs = {"input_ids": ids, "token_type_ids": torch.tensor([types], device=self.model.device)}
        with contextlib.nullcontext() if habits.gradients else torch.inference_mode():
            if habits.everywhere:
                scores = self.model(**inputs).logits[0, before + 1]
                best = torch.argsort(scores, descending=True)[:K]
            else:
                hidden = anatomy.base_of(self.model)(**inputs)[0]
                scores = anatomy.word_scores(self.model, hidden[0, before + 1])
                best = scores.topk(K).indices
            some = scores.detach().topk(2 * K)
        names, known = (self.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (best, some.indices))
        scored = dict(zip(known, some.values.tolist(), strict=True))
        return [name for name in names if not name.startswith("##")], scored

    def by_vectors(self, word: str) -> list[str]:
        if word not in self.row_of:
            return []
        row = self.row_of[word]
        ranked = np.argsort(-(self.vectors.vectors @ self.vectors.vectors[row]))
        return [self.vectors.words[i] for i in ranked[: K + 1] if i != row][:K]


def published_copies(found: Proposals, count: int, generator: random.Random) -> list[str]:
    """The published way to draw copies: lower case, joined by spaces, duplicates dropped."""
    copies = [" ".join(found.words)]
    for _ in range(count):
        words = list(found.words)
        for place, candidates in found.candidates.items():
            chosen = generator.choice(candidates) if candidates else words[place]
            if generator.random() < 0.4:
                words[place] = chosen
        text = " ".join(words)
        if text not in copies:
            copies.append(text)
    return copies


def by_publication(scene: Scene, habits: Published, copies: int) -> dict[str, Proposals]:
    """All texts the published way; the last proposals for each."""
    found: dict[str, Proposals] = {}
    near: dict[str, list[str]] = {}
    generator = random.Random(0)
    for text in scene.texts:
        if habits.repeated or text not in found:
            found[text] = scene.published(text, habits, near)
        published_copies(found[text], copies, generator)
    return found


def by_tutelage(scene: Scene, copies: int, precision: str = "no", **options: Any) -> Candidates:
    """All texts with ``tutelage``."""
    with torch.autocast(scene.model.device.type, torch.bfloat16, enabled=precision == "bf16"):
        table = propose(scene.texts, scene.model, scene.tokenizer, scene.vectors, proposer="benchmark", k=K, **options)
    labels = np.zeros(len(scene.texts), dtype=np.int64)
    examples = Examples([f"train/{i}" for i in range(len(labels))], scene.texts, None, labels)
    variants(examples, table, Augmentation(variants=copies, retries=0), 0)
    return table


def compare(scene: Scene, theirs: dict[str, Proposals], table: Candidates) -> dict[str, int]:
    """Whether both have the same candidates; where scores are closer than rounding either order is right."""
    counts = {"words": 0, "candidates": 0, "not_in_published": 0}
    for text, found in theirs.items():
        row = int(table.locate([text])[0])
        ours = []
        for word in range(table.offsets[row], table.offsets[row + 1]):
            name = "".join(split(scene.tokenizer, text[slice(*table.spans[word])]))
            if re.fullmatch("[a-z]+", name):
                ours.append((name, [table.strings[i] for i in table.choices[word] if i >= 0]))
            else:
                counts["not_in_published"] += 1  # letters beyond a to z
        places = [place for place, names in found.candidates.items() if names]
        assert [name for name, _ in ours] == [found.words[place] for place in places], text
        for (name, choices), place in zip(ours, places, strict=True):
            published, scores = found.candidates[place], found.scores.get(place)
            if scores is None:
                assert set(choices) == set(published), (text, name)
            else:
                apart = [scores[one] - scores[other] for one, other in zip(choices, published, strict=True)]
                assert np.abs(apart).max() < 1e-3, (text, name)
            counts["words"] += 1
            counts["candidates"] += len(choices)
    return counts


def operations(scene: Scene, texts: Sequence[str], doubled: bool, everywhere: bool) -> float:
    """Of the forward passes for all single-piece words of ``texts``."""
    total = 0
    for text in texts:
        words = split(scene.tokenizer, text)
        cut = [len(scene.tokenizer.tokenize(word)) for word in words]
        masked = sum(n == 1 and proposed(word) for word, n in zip(words, cut, strict=True))
        length = min(2 * sum(cut) + 3 if doubled else sum(cut) + 2, scene.longest)
        total += masked * (scene.body(length) + scene.head * (length if everywhere else 1))
    return float(total)


def sample(data_dir: Path, count: int) -> tuple[list[str], float, float]:
    """At least ``count`` texts of QNLI, the share of the work that is left if each is done once, and that in the whole data.

    Questions and sentences that share rows are taken or left together, else few texts of a small sample would recur. Of 200
    random choices it is the one whose share is nearest to that of the data.
    """
    train = load_glue("qnli", data_dir).train
    rows = list(zip(train.texts, train.pairs or (), strict=True))
    together = enumerate(networkx.connected_components(networkx.Graph(rows)))
    number_of = {text: number for number, texts in together for text in texts}
    groups: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        groups[number_of[row[0]]] += row
    generator = random.Random(0)

    def draw() -> list[str]:
        texts: list[str] = []
        while len(texts) < count:
            texts += groups[generator.randrange(len(groups))]
        return texts

    def share(texts: Sequence[str]) -> float:
        # A text costs its masked words times its length.
        return sum(len(t.split()) ** 2 for t in set(texts)) / sum(len(t.split()) ** 2 for t in texts)

    of_data = share([text for row in rows for text in row])
    texts = min((draw() for _ in range(200)), key=lambda texts: abs(share(texts) - of_data))
    return texts, share(texts), of_data


def random_vectors(words: Sequence[str]) -> WordVectors:
    """Vectors for these words and as many more as make up GloVe's part that the published code reads."""
    more = ("q" + "".join(letters) for letters in product(ascii_lowercase, repeat=4))
    names = list(dict.fromkeys([*words, *more]))[: VECTORS[0]]
    return WordVectors(names, np.random.default_rng(0).normal(size=VECTORS).astype(np.float32)[: len(names)], "random")


def rows_of(scene: Scene, copies: int) -> tuple[list[Results], dict[str, int]]:
    """The rows of the table, and what was compared."""
    unique = list(dict.fromkeys(scene.texts))
    peaks = {name: common.matmul_peak(scene.model.device, common.DTYPES[name]) for name in ("no", "bf16")}
    published = [
        ("published", Published(), scene.texts, True),
        ("no gradients", Published(gradients=False), scene.texts, True),
        ("head at one place, best instead of sorted", Published(False, False), scene.texts, False),
        ("each text and word once", Published(False, False, False), unique, False),
    ]
    ours: list[tuple[str, dict[str, Any], bool]] = [
        ("in batches", {"context": "masked_plus_original", "filtered": False}, True),
        ("masked text alone", {"context": "masked_only", "filtered": False}, False),
        ("filtered: the default", {}, False),
        ("bfloat16", {"precision": "bf16"}, False),
    ]
    warm = Scene(scene.model, scene.tokenizer, scene.vectors, scene.texts[:2])
    by_publication(warm, Published(), 2)
    for _, options, _ in ours:
        by_tutelage(warm, 2, **options)
    rows: list[Results] = []
    kept: dict[str, Any] = {}

    def add(name: str, what: Callable[[], Any], work: float, repeats: int = 1, precision: str = "no") -> None:
        print(name, flush=True)
        times = []
        for _ in range(repeats):
            cpu = time.process_time()
            seconds, kept[name] = common.timed(what)
            times.append((seconds, time.process_time() - cpu))
        seconds, cpu = sorted(times)[repeats // 2]
        first = rows[0] if rows else {"seconds": seconds, "cpu_seconds": cpu}
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "sentences_per_second": len(scene.texts) / seconds,
                "times_published": first["seconds"] / seconds,
                "times_published_cpu": first["cpu_seconds"] / cpu,
                "gflop_per_sentence": work / len(scene.texts) / 1e9,
                "share_of_peak": work / seconds / peaks[precision],
                "peak_gflop_per_second": peaks[precision] / 1e9,
            }
        )

    for name, habits, texts, everywhere in published:
        add(name, partial(by_publication, scene, habits, copies), operations(scene, texts, True, everywhere))
    for name, options, doubled in ours:
        work, precision = operations(scene, unique, doubled, False), options.get("precision", "no")
        add(name, partial(by_tutelage, scene, copies, **options), work, 3, precision)
    return rows, compare(scene, kept["published"], kept["in batches"])


SCRIPT = Script(__file__, __doc__, "augment", sentences=32, variants=20)
SCRIPT.add_argument("--data-dir", type=Path, help="folder of GLUE, or of QNLI's files")


def measure(arguments: Arguments) -> Iterator[Results]:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = AutoTokenizer.from_pretrained(pretrained())
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(pretrained()).eval().to(common.device())
    texts, share, of_data = sample(arguments.data_dir, arguments.sentences)
    vectors = random_vectors(sorted({word for text in texts for word in split(tokenizer, text)}))
    rows, compared = rows_of(Scene(model, tokenizer, vectors, texts), arguments.variants)
    yield {
        "command": SCRIPT.command(settings(arguments), "--data-dir path/to/glue"),
        "environment": common.machine(),
        "model": str(anatomy.shape_of(model.config)),
        "texts": len(texts),
        "share_done_once": share,
        "share_done_once_of_data": of_data,
        "word_vectors": list(vectors.vectors.shape),
        "variants": arguments.variants,
        "compared": compared,
        "wanted": WANTED,
        "rows": rows,
    }


COLUMNS = {
    "one thing more in each row": "{name}",
    "sentences a second": "{sentences_per_second:.2f}",
    "times the published": "{times_published:.1f}",
    "by CPU time": "{times_published_cpu:.1f}",
    "than the row above": "{gain:.2f}",
    "GFLOP a sentence": "{gflop_per_sentence:.1f}",
    "share of peak": "{share_of_peak:.0%}",
}


def page(results: Results) -> Results:
    above = [row["seconds"] for row in [results["rows"][0], *results["rows"]]]
    rows = [{**row, "gain": before / row["seconds"]} for before, row in zip(above, results["rows"], strict=False)]
    times = {row["name"]: row["times_published"] for row in rows}
    faster = {"half": times["bfloat16"], "full": times["filtered: the default"]}
    return {**results, **faster, "rows": tabled(COLUMNS, rows), "machine": common.where(**results["environment"])}


if __name__ == "__main__":
    SCRIPT.conduct(measure, page, name="{}_speed")
