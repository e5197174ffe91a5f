"""The sizes of a student on its way from the teacher's to its own."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.mechanisms.reduction.settings import Reduction
from tutelage.students.specs import Reduced

NAMES = {"layers": "layers", "heads": "heads", "intermediate": "neurons", "rank": "ranks of the embeddings"}
"""The sizes by their field of the student, and their words."""
USUAL = 10
"""Increments where no layer or head goes."""


@dataclass(frozen=True)
class Way:
    """How a student is reduced: its sizes at the beginning and the end, and the number of increments."""

    whole: dict[str, int]
    final: dict[str, int]
    count: int

    @staticmethod
    def of(how: Reduction, spec: Reduced, model: PreTrainedModel) -> Way:
        shape, table = anatomy.shape_of(model.config), anatomy.word_embeddings_of(model)
        whole = {"layers": shape.layers, "heads": shape.heads, "intermediate": shape.intermediate}
        whole["rank"] = min(table.num_embeddings, table.embedding_dim)
        goes = {"depth": ("layers",), "width": ("heads", "intermediate", "rank"), "both": tuple(NAMES)}[how.reduces]
        final = {name: (getattr(spec, name) if name in goes else None) or size for name, size in whole.items()}
        lost = {name: whole[name] - final[name] for name in NAMES}
        usual = max(lost["layers"], lost["heads"]) or USUAL
        return Way(whole, final, how.increments or usual if any(lost.values()) else 0)

    def removes(self, name: str) -> bool:
        """Whether a size becomes smaller."""
        return self.final[name] < self.whole[name]

    def after(self, increment: int) -> dict[str, int]:
        """The sizes after so many increments: on a straight line, rounded up."""
        return {
            name: size - (size - self.final[name]) * increment // (self.count or 1) for name, size in self.whole.items()
        }

    def due(self, step: int, total: int) -> int:
        """The increments after step ``step`` (from 1) of ``total``."""
        return step * self.count // total

    def __str__(self) -> str:
        return ", ".join(f"{w} {self.whole[n]:,} to {self.final[n]:,}" for n, w in NAMES.items() if self.removes(n))
