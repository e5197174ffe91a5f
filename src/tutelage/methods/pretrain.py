"""Pretraining without a teacher: masked or next words (Devlin et al. 2019; Radford et al. 2019)."""

from tutelage.data.masking import Masking
from tutelage.methods.finetune import DEVLIN
from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.students.specs import Checkpoint, Student


def pretrain(
    student: Student | None = None,
    *,
    causal: bool = False,
    head_only: bool = False,
    epochs: int = 1,
    lr: float = 1e-4,
) -> Recipe:
    """Cross-entropy of the masked words (a new mask in every epoch), or of each next word.

    ``head_only`` trains a language-model head on a body that stays as it is.
    """
    data = Instances(packing="packed") if causal else Instances(packing="segments", masking=Masking())
    return Recipe(
        method="pretrain",
        title="Pretraining on next words" if causal else "Pretraining on masked words",
        paper="Radford et al., 2019" if causal else DEVLIN,
        student=student or Checkpoint(name="bert-base-uncased"),
        stages=[
            Stage(
                name="pretrain",
                data=data,
                objective=[HardLabels()],
                train="head" if head_only else "all",
                epochs=epochs,
                lr=lr,
                batch_size=256,
                select="last",
            )
        ],
    )
