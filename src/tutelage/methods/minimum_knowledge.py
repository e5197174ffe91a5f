"""Minimum-knowledge distillation (Liu et al. 2021): a small crucial part of the hidden states, then the predictions."""

from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.students.specs import Pruned

ROSITA6 = Pruned(layers=6, heads=2, intermediate=768, rank=128, importance="taylor", tune=None, examples=None)
"""The paper's student: 14.5 M parameters from BERT-base."""


def minimum_knowledge(keep: str = "1l_10t_0.1h", hidden_epochs: int = 10, prediction_epochs: int = 5) -> Recipe:
    """Hidden states cut in depth, length and width, then soft cross-entropy at temperature 1; no label in any loss.

    ``keep`` says how much (see :class:`HiddenKnowledge`). With ``--teacher-store`` the teacher runs once; what is kept
    serves every later student. The student is ROSITA6 (bottom 6 layers, 2 heads, 768 feed-forward neurons, embeddings of
    rank 128: 14.5 M parameters from BERT-base).
    """
    return Recipe(
        method="minimum_knowledge",
        title="Minimum-knowledge distillation",
        paper="Liu et al., ACL 2021, arXiv:2106.05691",
        student=ROSITA6,
        stages=[
            Stage(
                name="hidden",
                objective=[HiddenKnowledge(keep=keep)],
                epochs=hidden_epochs,
                lr=5e-5,
                warmup=0.0,
                decay="constant",
                select="last",
            ),
            Stage(
                name="prediction",
                objective=[SoftLabels(temperature=1)],
                epochs=prediction_epochs,
                lr=2e-5,
                warmup=0.0,
            ),
        ],
    )


def minimum_knowledge_reference() -> Recipe:
    """The choices of the authors' code: neurons not kept are compared with zero, tokens are
    ranked by logits of the layers of the mapping up to the last, halves round to even, KL averaged over classes, Adam without
    bias correction."""
    recipe = minimum_knowledge()
    first, second = recipe.stages
    knowledge = HiddenKnowledge(width_target="zero_fill", score="logit", scored_by="uniform", rounding="half_even")
    as_coded = {"pad_to": 128, "optimizer": "bert_adam"}
    stages = [
        first.model_copy(update={**as_coded, "objective": [knowledge]}),
        second.model_copy(update={**as_coded, "objective": [SoftLabels(reduction="mean")]}),
    ]
    title = "Minimum-knowledge distillation, as its code"
    return recipe.model_copy(update={"method": "minimum_knowledge_reference", "title": title, "stages": stages})
