"""Real weights: MPNet read as plain transformers runs it, and its tokenizer against MiniLM's. ``TUTELAGE_MODELS`` is the folder of
``all-mpnet-base-v2`` and ``all-MiniLM-L6-v2``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_folder
from transformers import AutoModel, AutoTokenizer

from tutelage.data.alignment import align
from tutelage.data.examples import Examples, token_places
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap
from tutelage.students.copied import copy_layers
from tutelage.students.specs import Copied
from tutelage.tasks.load import load_data

MODELS = Path(os.environ.get("TUTELAGE_MODELS", "models"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODELS / "all-mpnet-base-v2").exists(), reason="no all-mpnet-base-v2 in TUTELAGE_MODELS"),
]
TEXTS = ["A short one.", "Relative positions of far tokens share a bucket. " * 20, "unaffable naïve 東京"]


def test_mpnets_signals_are_plain_transformers_to_the_bit() -> None:
    model = AutoModel.from_pretrained(MODELS / "all-mpnet-base-v2", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "all-mpnet-base-v2")
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    tap = Tap(model, Needs(hidden=frozenset(range(13)), attention=frozenset(range(1, 13))))
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True, output_attentions=True)
        signals = tap(inputs)
    tap.close()
    mask = inputs["attention_mask"].bool()
    for layer in range(13):
        assert torch.equal(signals.hidden[layer], plain.hidden_states[layer])
    for layer in range(1, 13):
        scores = signals.queries[layer] @ signals.keys[layer].mT * signals.scaling + signals.biases[layer]
        ours = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
        torch.testing.assert_close(ours, plain.attentions[layer - 1], atol=1e-6, rtol=1e-4)
    student = copy_layers(model, Copied(layers=3, choose="first"), {})
    with torch.no_grad():
        cut = student(**inputs, output_hidden_states=True).hidden_states
    for layer in range(4):
        assert torch.equal(cut[layer], plain.hidden_states[layer])


@pytest.mark.parametrize("task", ["mrpc", "sst2"])
def test_mpnet_and_minilm_cut_real_texts_alike(task: str) -> None:
    from tutelage.data.config import DataConfig

    data = load_data(DataConfig(task=task, data_dir=str(data_folder() / "glue"), max_train=2000)).train
    tokenizers = [AutoTokenizer.from_pretrained(MODELS / name) for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2")]
    rows = Examples(data.ids, data.texts, data.pairs, data.labels)
    found = align(*(token_places(rows, one, 128) for one in tokenizers), np.zeros(len(rows), dtype=bool))
    assert found.apart == 0
    assert (found.partners < 0).sum() == 0  # of MiniLM's tokens; MPNet has one more between two texts
