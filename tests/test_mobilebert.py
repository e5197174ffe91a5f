"""MobileBERT: layers that work in a bottleneck, and embeddings that read the tokens beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import LABELS, tiny_config, tiny_model
from test_pruned import labelled

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.objectives.relations import Relations
from tutelage.students.build import build
from tutelage.students.load import load_model
from tutelage.students.specs import Fresh, Gated, Inherited, Pruned


def test_a_texts_answer_does_not_depend_on_padding_once_loaded(tokenizer, tmp_path: Path) -> None:
    """The authors' checkpoints have a vector for padding, which the last token of a padded text would read."""
    model = tiny_model("mobilebert")
    with torch.no_grad():
        anatomy.word_embeddings_of(model).weight[0] = 5.0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = dict(tokenizer("good word1", return_tensors="pt"))
    padded = dict(tokenizer(["good word1"], padding="max_length", max_length=12, return_tensors="pt"))
    loaded, new = load_model(str(tmp_path))
    assert not new
    with torch.no_grad():
        assert (model(**alone).logits - model(**padded).logits).abs().max() > 1e-3
        torch.testing.assert_close(loaded(**alone).logits, loaded(**padded).logits, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(loaded(**alone).logits, model(**alone).logits, atol=1e-6, rtol=1e-5)


def test_sizes_of_a_fresh_student_keep_the_proportions() -> None:
    paper = {"hidden": 512, "intermediate": 512, "heads": 4}
    for like in (tiny_config("bert"), tiny_config("mobilebert")):
        teacher = tiny_model(like.model_type)
        student = build(Fresh(family="mobilebert", layers=2, **paper), teacher, labelled(*LABELS), 0)
        config = student.config
        widths = config.embedding_size, config.intra_bottleneck_size, config.true_hidden_size
        assert widths == (
            (128, 128, 128) if like.model_type == "bert" else (256, 256, 256)
        )  # of 512; of the teacher's half
        assert anatomy.shape_of(config).attended == widths[1]
    wider = build(
        Fresh(family="mobilebert", layers=1, hidden=256, heads=4, embedding=16), tiny_model(), labelled(*LABELS), 0
    )
    assert (wider.config.embedding_size, wider.config.intra_bottleneck_size) == (16, 64)
    with pytest.raises(
        TutelageError, match=r"the width 16 of the attention is not divisible by 3 heads; use one of heads=1, 2, 4 or"
    ):
        build(Fresh(family="mobilebert", layers=1, hidden=64, heads=3), tiny_model(), labelled(*LABELS), 0)


def test_relations_divide_the_width_of_the_attention() -> None:
    shapes = [anatomy.shape_of(tiny_config(family)) for family in ("bert", "mobilebert")]
    with pytest.raises(TutelageError, match="cannot divide the widths 32 and 16; use relation_heads=16"):
        Relations(relation_heads=32).needs(*shapes)
    Relations(relation_heads=8).needs(*shapes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Pruned(layers=2), "several feed-forward networks"),
        (Gated(), "several feed-forward networks"),
        (Inherited(hidden=16), "a bottleneck with a width of its own"),
    ],
)
def test_what_cannot_be_cut_is_one_line(spec, message: str) -> None:
    with pytest.raises(TutelageError, match=f"mobilebert.*{message}"):
        build(spec, tiny_model("mobilebert"), labelled(*LABELS), 0, scores=lambda model: [])
