"""Plain fine-tuning: the labels alone. The teacher's own training, and the baseline that every method must beat."""

from typing import Literal

from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied, Student

DEVLIN = Paper(
    text="Devlin et al., NAACL 2019",
    arxiv="1810.04805",
    title="{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    authors="Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina",
)


def finetune(
    student: Student | None = None, epochs: int | Literal["auto"] = "auto", lr: float | Literal["auto"] = "auto"
) -> Recipe:
    """Cross-entropy (or squared error) on the labels."""
    return Recipe(
        method="finetune",
        title="Fine-tuning",
        paper=DEVLIN,
        student=student or Copied(),
        stages=[Stage(name="finetune", objective=[HardLabels()], epochs=epochs, lr=lr)],
    )
