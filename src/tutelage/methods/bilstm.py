"""Distilled BiLSTM (Tang et al. 2019): a student that is no Transformer learns logits, on many texts made by rules."""

from tutelage.data.augmentation.rules import Rules
from tutelage.objectives.predictions import LogitsMSE, PseudoLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import BiLSTM

TANG = Paper(
    text="Tang et al., 2019",
    arxiv="1903.12136",
    title="Distilling Task-Specific Knowledge from {BERT} into Simple Neural Networks",
    authors="Tang, Raphael and Lu, Yao and Liu, Linqing and Mou, Lili and Vechtomova, Olga and Lin, Jimmy",
)


def bilstm(task: str | None = None, alpha: float = 0.0) -> Recipe:
    """``alpha CE(z_s, y) + (1 - alpha) ||z_s - z_t||^2``; texts with masked and swapped words and n-grams of them.

    ``y`` is the label, and for a text that the rules made the teacher's most likely class. 20 texts for each, 10 for the large
    pair tasks, as in the paper. AdamW stands for its AdaDelta.
    """
    large = "".join(filter(str.isalnum, (task or "").lower())) in ("mnli", "qqp")
    return Recipe(
        method="bilstm",
        title="Distilled BiLSTM",
        paper=TANG,
        student=BiLSTM(),
        augmentation=Rules(iterations=10 if large else 20),
        stages=[
            Stage(
                name="distill",
                data="augmented",
                objective=[LogitsMSE(weight=round(1 - alpha, 6)), PseudoLabels(weight=alpha)],
                epochs=30,
                lr=1e-3,
                batch_size=256 if large else 50,
                clip=5.0,
                patience=5,
            )
        ],
    )


def bilstm_reference(task: str | None = None) -> Recipe:
    """The authors' code: logits and the teacher's most likely class of every text, both with weight 1, by AdaDelta.

    The rate of AdaDelta is the paper's (1; configurations of the code pass 5e-4), and so are the rules' probabilities (the code
    makes no n-grams by default). Not as there: the last n-gram of a text can be drawn, and no option pools the LSTM's input.
    """
    recipe = bilstm(task)
    stage = recipe.stages[0].model_copy(
        update={
            "objective": [LogitsMSE(), PseudoLabels(gold=False, optional=True)],
            "optimizer": "adadelta",
            "lr": 1.0,
            "warmup": 0.0,
            "decay": "constant",
            "weight_decay": 0.0,
            "clip": 30000.0,
            "patience": None,
        }
    )
    return recipe.model_copy(
        update={"method": "bilstm_reference", "title": "Distilled BiLSTM, as its code", "stages": [stage]}
    )
