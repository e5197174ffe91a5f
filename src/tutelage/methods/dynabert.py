"""DynaBERT (Hou et al. 2020): one student, of which smaller networks of several widths and depths can be cut out."""

from tutelage.mechanisms.own_teacher.settings import OwnTeacher
from tutelage.mechanisms.subnetworks.settings import Subnetworks
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Ordered


def dynabert(
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    depths: tuple[float, ...] = (0.5, 0.75, 1.0),
    epochs: int = 3,
    labels: bool = False,
) -> Recipe:
    """``lambda_1 KL + lambda_2 sum_l MSE(H_l)``, with the embeddings: first (1, 0.1) at all widths, then (1, 1) at all widths and
    depths. Each step adds up the losses of all sub-networks. Stage ``depth`` is taught by the network of stage ``width``.

    ``labels`` adds the paper's optional last stage, on the labels. Without ``depths`` below 1 stage ``depth`` is left out.
    """
    smaller = min(depths) < 1
    stages = [
        Stage(
            name="width",
            objective=[SoftLabels(), Embeddings(weight=0.1), Hidden(layers="uniform", weight=0.1)],
            mechanisms=[Subnetworks(widths=widths)],
            epochs=epochs,
            lr=2e-5,
        )
    ]
    both = Subnetworks(widths=widths, depths=depths)
    if smaller:
        objective = [SoftLabels(), Embeddings(), Hidden(layers="uniform")]
        stages.append(Stage(name="depth", objective=objective, mechanisms=[both, OwnTeacher()], epochs=epochs, lr=2e-5))
    if labels:
        stages.append(Stage(name="labels", objective=[HardLabels()], mechanisms=[both], epochs=epochs, lr=2e-5))
    return Recipe(
        method="dynabert",
        title="DynaBERT",
        paper=Paper(
            text="Hou et al., NeurIPS 2020",
            arxiv="2004.04037",
            title="{DynaBERT}: Dynamic {BERT} with Adaptive Width and Depth",
            authors="Hou, Lu and Huang, Zhiqi and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Liu, Qun",
        ),
        student=Ordered(),
        stages=stages,
    )
