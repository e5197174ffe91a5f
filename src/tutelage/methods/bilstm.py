"""Distilled BiLSTM (Tang et al. 2019): a student that is no Transformer learns logits, on many texts made by rules."""

from tutelage.data.augmentation.rules import Rules
from tutelage.objectives.predictions import LogitsMSE
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.students.specs import BiLSTM


def bilstm(task: str | None = None) -> Recipe:
    """``||z_s - z_t||^2``; texts with masked and swapped words and n-grams of them, which the teacher labels.

    20 texts for each, 10 for the large pair tasks, as in the paper. AdamW stands for the paper's AdaDelta.
    """
    large = "".join(filter(str.isalnum, (task or "").lower())) in ("mnli", "qqp")
    return Recipe(
        method="bilstm",
        title="Distilled BiLSTM",
        paper="Tang et al., 2019, arXiv:1903.12136",
        student=BiLSTM(),
        augmentation=Rules(iterations=10 if large else 20),
        stages=[
            Stage(
                name="distill",
                data="augmented",
                objective=[LogitsMSE()],
                epochs=30,
                lr=1e-3,
                batch_size=256 if large else 50,
                clip=5.0,
                patience=5,
            )
        ],
    )
