"""The reduction of a student during training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.mechanisms.cutter import Cutter
from tutelage.mechanisms.reduction.sizes import Way
from tutelage.students.importance import unit_sums
from tutelage.students.pruned import with_units


class Reducer(Cutter):
    """Sets layers, heads, neurons and directions of the embeddings to zero in increments; cuts them out at the end of the stage.

    A part that is set to zero gets no gradient, so that the student learns as if it were cut out already.

    Args:
        settle: As :class:`~tutelage.mechanisms.cutter.Cutter` calls it.
    """

    def __init__(
        self, way: Way, model: PreTrainedModel, settle: Callable[[dict[str, Any]], None] = lambda record: None
    ) -> None:
        super().__init__(model, settle)
        self.way = way
        self._family, shape = anatomy.family_of(model.config), anatomy.shape_of(model.config)
        device = next(model.parameters()).device
        self._layers = list(anatomy.layers_of(model))
        sizes = {"layers": (shape.layers,), "heads": (shape.layers, shape.heads)}
        sizes["intermediate"] = (shape.layers, shape.intermediate)
        self.left = {name: torch.ones(size, dtype=torch.bool, device=device) for name, size in sizes.items()}
        """By name what is not removed: layers, and in each layer heads and neurons."""
        self._scores = {n: torch.zeros(self.left[n].shape, device=device) for n in ("heads", "intermediate")}
        self._done = self._total = 0
        table = anatomy.word_embeddings_of(model)
        self._directions = _directions(table.weight) if way.removes("rank") else None
        self._projector: Tensor | None = None
        self._handles.append(table.register_forward_hook(self._at_table))
        for number, layer in enumerate(self._layers):
            for name, inner in (("heads", self._family.attention_output), ("intermediate", self._family.ffn_down)):
                if way.removes(name):
                    matrix = layer.get_submodule(inner)
                    self._handles.append(
                        matrix.register_forward_pre_hook(self._at_units(partial(self._left_of, name, number)))
                    )
            if way.removes("layers"):
                self._handles.append(layer.register_forward_hook(self._at_layer(number)))

    # --------------------------------------------------------------------------------------------- in the model

    def _at_table(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output if self._projector is None else output @ self._projector.to(output.dtype)

    def _left_of(self, name: str, number: int) -> Tensor:
        return self.left[name][number]

    def _at_layer(self, number: int) -> Any:
        def skip(module: nn.Module, args: tuple[Tensor], output: Any) -> Any:
            # Not left out: processes wait for the gradients of all parameters.
            left = self.left["layers"][number]
            if isinstance(output, tuple):
                return torch.where(left, output[0], args[0]), *output[1:]
            return torch.where(left, output, args[0])

        return skip

    # ------------------------------------------------------------------------------------------------- training

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Add a step's part of the scores; one whose gradients overflowed (fp16) has none, as the optimiser skips it."""
        self._total = total
        if self._done == self.way.count or not (self.way.removes("heads") or self.way.removes("intermediate")):
            return
        family, rows = self._family, []
        for layer in self._layers:
            output, up, down = (
                _products(layer.get_parameter(f"{path}.weight"))
                for path in (family.attention_output, family.ffn_up, family.ffn_down)
            )
            rows.append(unit_sums(output, up, down, self.left["heads"].shape[1]))
        for name, found in zip(self._scores, zip(*rows, strict=True), strict=True):
            together = torch.stack(found)
            self._scores[name] += torch.where(together.isfinite().all(), together, 0.0)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        due = self.way.due(step, total)
        if due > self._done:
            self._done = due
            self._reduce()
        return False

    def _reduce(self) -> None:
        """Bring the student to the sizes of this increment."""
        sizes = self.way.after(self._done)
        self.left["layers"][sizes["layers"] :] = False
        for name, scores in self._scores.items():
            if self.way.removes(name):
                kept = scores.masked_fill(~self.left[name], -1.0).topk(sizes[name], dim=1).indices
                self.left[name] = torch.zeros_like(self.left[name]).scatter(1, kept, True)
            scores.zero_()
        self._project(sizes["rank"])

    def _project(self, rank: int) -> None:
        if self._directions is not None and rank < len(self._directions):
            kept = self._directions[:, :rank]
            self._projector = kept @ kept.mT

    def shown(self) -> dict[str, float]:
        sizes = self.way.after(self._done)
        return {name: float(size) for name, size in sizes.items() if self.way.removes(name)}

    def state(self) -> dict[str, Tensor]:
        own = {**self.left, **{f"scores_{name}": x for name, x in self._scores.items()}}
        directions = {} if self._directions is None else {"directions": self._directions}
        return {**own, **directions, "done": torch.tensor(self._done)}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, x in self.left.items():
            x.copy_(state[name])
        for name, x in self._scores.items():
            x.copy_(state[f"scores_{name}"])
        if self._directions is not None:
            self._directions.copy_(state["directions"])
        self._done = int(state["done"])
        self._project(self.way.after(self._done)["rank"])

    # ------------------------------------------------------------------------------------------------------ end

    def record(self) -> dict[str, Any]:
        count = self.way.count
        return {
            "sizes": [self.way.after(number) for number in range(count + 1)],
            "steps": [0, *(-(-number * self._total // count) for number in range(1, count + 1))],
        }

    @torch.no_grad()
    def cut(self) -> PreTrainedModel:
        model = self.model
        if self._projector is not None:
            table = anatomy.word_embeddings_of(model).weight
            table.copy_(table @ self._projector)  # its rank is now the student's
        places = self.left["layers"].nonzero()[:, 0].tolist()
        heads, neurons = (self.left[name].cpu() for name in ("heads", "intermediate"))
        units = [(heads[place].nonzero()[:, 0], neurons[place].nonzero()[:, 0]) for place in places]
        rank = self.way.final["rank"] if self.way.removes("rank") else None
        smaller = with_units(model, places, units, {}, rank)
        smaller.set_attn_implementation(model.config._attn_implementation)
        return smaller.to(next(model.parameters()).device).train(model.training)


def _products(weight: Tensor) -> Tensor:
    """``|w g|`` of each weight; 0 of a layer that is removed."""
    return torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()


def _directions(table: Tensor) -> Tensor:
    """``(width, width)``: the right singular vectors of a table ``(vocabulary, width)`` as columns, the largest value first."""
    weight = table.detach().double().cpu()
    vectors: Tensor = torch.linalg.eigh(weight.mT @ weight)[1]  # in ascending order
    return vectors.flip(1).contiguous().to(table)
