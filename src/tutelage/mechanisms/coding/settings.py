"""Sparse and shared weights, as settings (Han et al. 2016, arXiv:1510.00149)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tutelage.mechanisms.mechanism import Mechanism, StageLike, check_last

if TYPE_CHECKING:
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.report.section import Section
    from tutelage.teachers.teacher import Teacher


class Sparsity(Mechanism):
    """The smallest weights of every matrix become 0 while the rest learns, and stay 0 in this stage and in later ones that share
    weights.

    The share grows as ``share * (1 - (1 - t)^3)`` (Zhu and Gupta 2018, arXiv:1710.01878). The paper removes them once and learns
    again. An entry that is 0 at the start of the stage stays 0.
    """

    keeps_last = True

    kind: Literal["sparsity"] = "sparsity"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each matrix's entries, embedding tables too, that are 0 in the end."""
    until: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the stage's steps after which they are."""

    def check(self, stage: StageLike) -> None:
        check_last(stage, "makes weights sparse")

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.coding.coder import Sparsifier

        return Sparsifier(self, scene.student)

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.coding.coder import section

        return [section(scene.student)]


class SharedValues(Mechanism):
    """Every matrix has only ``2^bits - 1`` different values beside 0: its entries are grouped by k-means, from centroids that are
    evenly spread between the least and the largest. The centroids learn, each by the sum of its entries' gradients.
    """

    kind: Literal["shared_values"] = "shared_values"
    bits: Annotated[int, Field(ge=1, le=8)] = 6
    """Bits that number the values of a matrix; the paper has 8 for convolutions and 5 for other layers."""

    def check(self, stage: StageLike) -> None:
        if any(mechanism.kind == "sparsity" for mechanism in stage.mechanisms):
            raise ValueError(
                f"stage {stage.name!r} shares values, which are fixed to entries; make them sparse in a stage before"
            )

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook:
        from tutelage.mechanisms.coding.coder import Codebooks

        return Codebooks(self, scene.student)

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.coding.coder import section

        return [] if _also_sparse(scene) else [section(scene.student)]


def _also_sparse(scene: Scene) -> bool:
    """Whether a stage of the run has :class:`Sparsity`, whose section says all."""
    kinds: list[Any] = [mechanism.kind for stage in scene.stages for mechanism in stage.stage.mechanisms]
    return "sparsity" in kinds
