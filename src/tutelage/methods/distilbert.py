"""DistilBERT (Sanh et al. 2019): every-other-layer start, soft labels, aligned hidden states; on raw text or on a task."""

from tutelage.data.masking import Masking
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied

SANH = Paper(
    text="Sanh et al., 2019",
    arxiv="1910.01108",
    title="{DistilBERT}, a distilled version of {BERT}: smaller, faster, cheaper and lighter",
    authors="Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas",
)


def distilbert(
    soft: float = 5.0,
    hard: float = 2.0,
    cosine: float = 1.0,
    temperature: float = 2.0,
    epochs: int = 3,
    lr: float = 5e-5,
) -> Recipe:
    """The triple loss with the weights of the authors' command, 5 / 2 / 1; the task's labels stand for the masked words."""
    return Recipe(
        method="distilbert",
        title="DistilBERT, task stage",
        paper=SANH,
        student=Copied(choose="spread"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    SoftLabels(temperature=temperature, weight=soft),
                    HardLabels(weight=hard),
                    Hidden(layers="final", loss="cosine", weight=cosine),
                ],
                epochs=epochs,
                lr=lr,
            )
        ],
    )


def distilbert_general(layers: int = 6, soft: float = 5.0, hard: float = 2.0, cosine: float = 1.0) -> Recipe:
    """The paper's own stage: the triple loss at the masked words of raw text, teacher and student reading the same.

    The student has no token types and no pooler and starts from evenly spread layers of the teacher. The authors compare
    predictions at all tokens: ``--set masking.predict=all``.
    """
    return Recipe(
        method="distilbert_general",
        title="DistilBERT, general stage",
        paper=SANH,
        student=Copied(layers=layers, choose="spread", family="distilbert"),
        stages=[
            Stage(
                name="general",
                data=Instances(packing="segments", length=512, masking=Masking(smoothing=0.7)),
                objective=[
                    SoftLabels(temperature=2, weight=soft),
                    HardLabels(weight=hard),
                    Hidden(layers="final", loss="cosine", weight=cosine),
                ],
                epochs=3,
                lr=5e-4,
                betas=(0.9, 0.98),
                eps=1e-6,
                batch_size=256,
                warmup=0.05,
                weight_decay=0.0,
                clip=5.0,
                select="last",
            )
        ],
    )
