"""Deep Compression (Han et al. 2016): weights become 0, the others share few values, and a Huffman code writes what is left."""

from tutelage.mechanisms.coding.settings import SharedValues, Sparsity
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def deep_compression(share: float = 0.5, bits: int = 6, temperature: float = 2.0, alpha: float = 0.7) -> Recipe:
    """The teacher itself: ``share`` of its weights become 0 in the first stage, and the second trains ``2^bits - 1`` values for
    each matrix. ``tutelage pack`` then writes the Huffman code.

    The paper trains on labels alone; here the teacher's predictions count too, ``alpha T^2 KL + (1 - alpha) CE``. The student
    computes as much as before: it is smaller on disk, not faster.
    """
    objective = [SoftLabels(temperature=temperature, weight=alpha), HardLabels(weight=round(1 - alpha, 6))]
    return Recipe(
        method="deep_compression",
        title="Deep Compression",
        paper=Paper(
            text="Han et al., ICLR 2016",
            arxiv="1510.00149",
            title="Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and {Huffman} "
            "Coding",
            authors="Han, Song and Mao, Huizi and Dally, William J.",
        ),
        student=Copied(layers="all"),
        stages=[
            Stage(
                name="sparse", objective=objective, mechanisms=[Sparsity(share=share)], epochs=3, lr=5e-5, select="last"
            ),
            Stage(name="shared", objective=objective, mechanisms=[SharedValues(bits=bits)], epochs=2, lr=1e-5),
        ],
    )
