"""Minimum-knowledge distillation (Liu et al. 2021): a small crucial part of the hidden states, then the predictions."""

from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Pruned

ROSITA6 = Pruned(layers=6, heads=2, intermediate=768, rank=128, importance="taylor", tune=None, examples=None)
"""The paper's student: 14.5 M parameters from BERT-base."""


EPOCHS = {"cola": 30, "mrpc": 20, "rte": 20, "stsb": 20, "sst2": 10, "mnli": 5, "qnli": 5, "qqp": 5}
"""Epochs on hidden states in the authors' code; 10 for other tasks is ours."""
LENGTHS = {"cola": 64, "sst2": 64, **dict.fromkeys(("mrpc", "rte", "stsb", "mnli", "qnli", "qqp"), 128)}
"""Longest input in tokens in the authors' code."""


def minimum_knowledge(
    keep: str = "1l_10t_0.1h",
    hidden_epochs: int | None = None,
    prediction_epochs: int = 5,
    task: str | None = None,
) -> Recipe:
    """Hidden states cut in depth, length and width, then soft cross-entropy at temperature 1; no label in any loss.

    ``keep`` says how much (see :class:`HiddenKnowledge`). With ``--teacher-store`` the teacher runs once; what is kept
    serves every later student. The student is ROSITA6 (bottom 6 layers, 2 heads, 768 feed-forward neurons, embeddings of
    rank 128: 14.5 M parameters from BERT-base). ``task`` brings the authors' epochs on hidden states, unless they are given, and
    their longest input.
    """
    task = "".join(filter(str.isalnum, (task or "").lower()))  # in any spelling, as DataConfig takes it
    return Recipe(
        method="minimum_knowledge",
        title="Minimum-knowledge distillation",
        paper=Paper(
            text="Liu et al., ACL 2021",
            arxiv="2106.05691",
            title="Marginal Utility Diminishes: Exploring the Minimum Knowledge for {BERT} Knowledge Distillation",
            authors="Liu, Yuanxin and Meng, Fandong and Lin, Zheng and Wang, Weiping and Zhou, Jie",
        ),
        student=ROSITA6,
        longest=LENGTHS.get(task),
        stages=[
            Stage(
                name="hidden",
                objective=[HiddenKnowledge(keep=keep)],
                epochs=hidden_epochs or EPOCHS.get(task, 10),
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


def minimum_knowledge_reference(task: str | None = None) -> Recipe:
    """The choices of the authors' code: neurons not kept are compared with zero, tokens are ranked by logits of the layers of the
    mapping up to the last, halves round to even, KL averaged over classes, Adam without bias correction.

    Not as there: inputs are not padded to the longest, which would change no loss, the head has no ReLU, and STS-B learns the
    teacher's score.
    """
    recipe = minimum_knowledge(task=task)
    first, second = recipe.stages
    knowledge = HiddenKnowledge(width_target="zero_fill", score="logit", scored_by="uniform", rounding="half_even")
    stages = [
        first.model_copy(update={"optimizer": "bert_adam", "objective": [knowledge]}),
        second.model_copy(update={"optimizer": "bert_adam", "objective": [SoftLabels(reduction="mean")]}),
    ]
    title = "Minimum-knowledge distillation, as its code"
    return recipe.model_copy(update={"method": "minimum_knowledge_reference", "title": title, "stages": stages})
