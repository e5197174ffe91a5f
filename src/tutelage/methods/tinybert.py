"""TinyBERT (Jiao et al. 2020) at the task stage: imitate the layers first, then the predictions."""

from tutelage.objectives.mapping import Mapping
from tutelage.objectives.terms import AttentionScores, Embeddings, Hidden, SoftLabels
from tutelage.recipe import Recipe, Stage
from tutelage.students.build import Fresh


def tinybert(
    layers: int = 4,
    hidden: int = 312,
    intermediate: int = 1200,
    heads: int = 12,
    mapping: Mapping = "uniform",
    intermediate_epochs: int = 20,
    prediction_epochs: int = 3,
) -> Recipe:
    """Embeddings + attention scores + hidden states (eq. 7-9), then soft cross-entropy at temperature 1 (eq. 10).

    The stages follow one another and no label enters any loss. All terms have weight 1; the projections to the teacher's
    width are learnt in the first stage and dropped after it.
    """
    return Recipe(
        method="tinybert",
        title="TinyBERT, task stages",
        paper="Jiao et al., Findings of EMNLP 2020, arXiv:1909.10351",
        student=Fresh(layers=layers, hidden=hidden, intermediate=intermediate, heads=heads),
        stages=[
            Stage(
                name="intermediate",
                objective=[Embeddings(), Hidden(layers=mapping), AttentionScores(layers=mapping)],
                epochs=intermediate_epochs,
                lr=5e-5,
                select="last",
            ),
            Stage(name="prediction", objective=[SoftLabels(temperature=1)], epochs=prediction_epochs, lr=3e-5),
        ],
    )


def tinybert_reference() -> Recipe:
    """The authors' code: padding takes part, one projection for all layers, constant lr first, KL averaged over classes."""
    recipe = tinybert()
    first, second = recipe.stages
    reference = first.model_copy(
        update={
            "objective": [
                Embeddings(project="shared", padding="reference"),
                Hidden(project="shared", padding="reference"),
                AttentionScores(padding="reference"),
            ],
            "pad_to": 128,
            "warmup": 0.0,
            "decay": "constant",
        }
    )
    prediction = second.model_copy(update={"objective": [SoftLabels(reduction="mean")], "pad_to": 128})
    return recipe.model_copy(
        update={"method": "tinybert_reference", "title": "TinyBERT, as its code", "stages": [reference, prediction]}
    )
