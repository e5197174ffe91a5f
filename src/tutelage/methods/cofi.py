"""CoFi (Xia et al. 2022): the teacher learns from itself while gates close its blocks, heads, neurons and hidden coordinates."""

from tutelage.mechanisms.gates.settings import Gates
from tutelage.objectives.mapped import ClosestLayers
from tutelage.objectives.predictions import SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Gated

EPOCHS = {"sst2": 20, "mnli": 20, "qnli": 20, "qqp": 20}
"""Epochs with gates on the large tasks; 100 on others, as on the paper's small ones."""


def cofi(share: float = 0.5, alpha: float = 0.1, temperature: float = 2.0, task: str | None = None) -> Recipe:
    """``alpha T^2 KL + (1 - alpha) sum_t MSE(W h_m(t), h_t)``, where ``m(t)`` is the closest layer that is left, with gates; then
    without the closed parts.

    ``share`` of the parameters of heads and neurons is left. Embeddings are frozen while gates learn. ``task`` brings the authors'
    epochs. ``alpha`` and the first value of the gates of blocks, heads and neurons are ours.
    """
    objective = [
        SoftLabels(temperature=temperature, weight=alpha),
        ClosestLayers(weight=round(1 - alpha, 6)),
    ]
    task = "".join(filter(str.isalnum, (task or "").lower()))  # in any spelling, as DataConfig takes it
    return Recipe(
        method="cofi",
        title="CoFi",
        paper=Paper(
            text="Xia et al., ACL 2022",
            arxiv="2204.00408",
            title="Structured Pruning Learns Compact and Accurate Models",
            authors="Xia, Mengzhou and Zhong, Zexuan and Chen, Danqi",
        ),
        student=Gated(share=share),
        stages=[
            Stage(
                name="prune",
                objective=objective,
                mechanisms=[Gates()],
                train="without_embeddings",
                epochs=EPOCHS.get(task, 100),
                lr=2e-5,
                select="last",
            ),
            Stage(name="finetune", objective=objective, train="without_embeddings", epochs=20, lr=2e-5),
        ],
    )
