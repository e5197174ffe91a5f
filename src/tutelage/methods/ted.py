"""TED (Liang et al. 2023): layer by layer, the student imitates what filters learnt on the task let through of the teacher."""

from tutelage.objectives.filters import FilteredHidden, TaskFilters
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def ted(alpha: float = 20.0, beta: float = 50.0, temperature: float = 2.0, epochs: int = 6, lr: float = 6e-5) -> Recipe:
    """``CE + alpha T^2 KL + beta mean_k MSE(g_k^S(H_k^S), g_k^T(H_k^T))``, after a stage in which the linear filters ``g`` of both
    models, each under a head of its own, learn the task's labels while the models stay as they are.

    Weights, temperature, rate and epochs are those of the authors' code, where they differ by task: these are its values for RTE.
    Their student is a fine-tuned small model. Here it has layers of the fine-tuned teacher, layer k the one that it is paired with.
    """
    return Recipe(
        method="ted",
        title="TED",
        paper=Paper(
            text="Liang et al., ICML 2023",
            arxiv="2210.01351",
            title="Less is More: Task-aware Layer-wise Distillation for Language Model Compression",
            authors="Liang, Chen and Zuo, Simiao and Zhang, Qingru and He, Pengcheng and Chen, Weizhu and Zhao, Tuo",
        ),
        student=Copied(choose="uniform"),
        stages=[
            # The head takes no part in the filters' losses: with only it to train, the student stays as it is.
            Stage(
                name="filters",
                objective=[TaskFilters()],
                train="head",
                dropout=False,
                epochs=epochs,
                lr=lr,
                select="last",
            ),
            Stage(
                name="distill",
                objective=[
                    HardLabels(),
                    SoftLabels(temperature=temperature, weight=alpha),
                    FilteredHidden(weight=beta),
                ],
                epochs=epochs,
                lr=lr,
            ),
        ],
    )
