"""Gates in a model while it trains, and their removal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.mechanisms.cutter import Cutter
from tutelage.mechanisms.gates import concrete
from tutelage.mechanisms.gates.settings import Gates
from tutelage.mechanisms.hook import parameter_groups
from tutelage.students.compactors.wrapped import normed
from tutelage.students.coordinates import outside_layers
from tutelage.students.sizes import unit_costs, whole_cost
from tutelage.students.specs import Gated
from tutelage.students.uneven import LayerGates, cut

START = 2.5
"""The ``a`` of a gate at the beginning: it is 1 in 71 of 100 draws, and 0 in 2."""
HIDDEN_START = math.log(100)
"""That of a hidden coordinate, at which every layer's norm looks: it is 1 in 95 of 100 draws. The authors' first value is 10, and
their code limits it to this one."""
WAY = 5.0
"""How far ``a`` goes from :data:`START` until a gate is 0 in 71 of 100 draws."""
FARTHEST = 30.0
"""A shift that opens or closes every gate."""
BLOCKS = (("attention", "heads"), ("feed_forward", "neurons"))
"""The gates of a kind of block, and those of its units."""


class GateHook(Cutter):
    """Multiplies what blocks, heads and neurons give by gates, and hidden states by those of their coordinates; trains the gates.

    A gate of 0 at a block skips it with its norm; so does a block all of whose heads or neurons are closed. Norms have the mean and
    variance of the open coordinates. Where gradients are computed the gates are random, with one draw a step that follows from the
    seed, the stage and the step alone. Elsewhere they are as they would be cut.

    Args:
        place: The run's seed and the stage's number.
        settle: As :class:`~tutelage.mechanisms.cutter.Cutter` calls it.
    """

    def __init__(
        self,
        how: Gates,
        spec: Gated,
        model: PreTrainedModel,
        place: tuple[int, int],
        settle: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        super().__init__(model, settle)
        self._shape = shape = anatomy.shape_of(model.config)
        self.how, self.spec, self._place = how, spec, place
        device = next(model.parameters()).device
        layers = {"attention": (), "heads": (shape.heads,), "feed_forward": (), "neurons": (shape.intermediate,)}
        starts = {name: torch.full((shape.layers, *size), START, device=device) for name, size in layers.items()}
        if spec.hidden:
            starts["hidden"] = torch.full((shape.hidden,), HIDDEN_START, device=device)
        self.gates = {name: nn.Parameter(start) for name, start in starts.items()}
        self.multipliers = nn.Parameter(torch.zeros(2, device=device))
        self._step = self._total = 0
        self._generator = torch.Generator(device)
        self._noise: dict[str, Tensor] = {}
        self._draw()
        self._now: dict[str, Tensor] = {}
        self._shift = 0.0
        self._handles.append(anatomy.base_of(model).register_forward_pre_hook(self._begin))
        family = anatomy.family_of(model.config)
        for number, layer in enumerate(anatomy.layers_of(model)):
            for (block, units), inner, norm in (
                (BLOCKS[0], family.attention_output, family.attention_norm),
                (BLOCKS[1], family.ffn_down, family.ffn_norm),
            ):
                matrix, factors = layer.get_submodule(inner), partial(self._gates_of, units, number)
                self._handles += [
                    matrix.register_forward_pre_hook(self._at_units(factors)),
                    matrix.register_forward_hook(self._at_block(block, number)),
                    layer.get_submodule(norm).register_forward_hook(self._at_norm(block, number)),
                ]
        if spec.hidden:
            places = outside_layers(model)
            for path in places.norms:
                norm_of_sum = model.get_submodule(path)
                self._handles.append(norm_of_sum.register_forward_pre_hook(self._at_sum))
                self._handles.append(norm_of_sum.register_forward_hook(self._normed))
            for path in places.writers:
                self._handles.append(model.get_submodule(path).register_forward_hook(self._at_writer))

    # --------------------------------------------------------------------------------------------- in the model

    def _begin(self, module: nn.Module, args: Any) -> None:
        """The gates of a forward pass."""
        self._now = self.values()
        if self.spec.hidden:
            is_open = (self._now["hidden"] > 0).float()
            self._now["share"] = is_open / is_open.sum().clamp(min=1)

    def values(self) -> dict[str, Tensor]:
        """The gates by name: random where gradients are computed, else as they would be cut.

        A block is closed, too, if all its heads or neurons are.
        """
        if torch.is_grad_enabled():
            found = {name: concrete.sampled(a, self._noise[name]) for name, a in self.gates.items()}
        else:
            found = {}
            for block, units in BLOCKS:
                alone = self.gates[block][:, None]  # each block is decided on its own
                found[block] = concrete.settled(alone, shift=self._shift)[:, 0]
                within = concrete.open_probability(alone + self._shift)
                found[units] = concrete.settled(self.gates[units], within, self._shift)
            if self.spec.hidden:
                found["hidden"] = concrete.settled(self.gates["hidden"], shift=self._shift)
        for block, units in BLOCKS:
            found[block] = found[block] * (found[units] > 0).any(-1)
        return found

    def _gates_of(self, name: str, number: int) -> Tensor:
        return self._now[name][number]

    def _at_block(self, block: str, number: int) -> Any:
        def multiply(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return self._at_writer(module, args, output * self._now[block][number])

        return multiply

    def _at_norm(self, block: str, number: int) -> Any:
        def skip(module: nn.LayerNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
            # The norm reads the sum of a block's input and output. Of a closed block that is its input.
            return torch.where(self._now[block][number] > 0, self._normed(module, args, output), args[0])

        return skip

    def _at_writer(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * self._now["hidden"] if self.spec.hidden else output

    def _at_sum(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * self._now["hidden"],)

    def _normed(self, module: nn.LayerNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
        """The open coordinates, normalised among themselves, times their gates; the others are 0."""
        if not self.spec.hidden:
            return output
        return normed(args[0], self._now["share"], module) * self._now["hidden"]

    # ------------------------------------------------------------------------------------------------- training

    def parameter_groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The usual ones, and the gates with the multipliers, at a rate of their own."""
        own = [*self.gates.values(), self.multipliers]
        return [
            *parameter_groups(module, weight_decay),
            {"params": own, "weight_decay": 0.0, "rate": self.how.rate},
        ]

    def _shares(self, hidden: Any) -> tuple[Any, Any]:
        """What one head and one neuron cost at this width of the hidden states, as shares of what all cost at the teacher's."""
        head, neuron = unit_costs(self._shape, self.spec.of, hidden)
        whole = whole_cost(self._shape, self.spec.of)
        return head / whole, neuron / whole

    def expected(self) -> Tensor:
        """The share of the cost that is expected to be left, ``()``."""
        gates = self.gates
        costs = self._shares(
            concrete.open_probability(gates["hidden"]).sum() if self.spec.hidden else self._shape.hidden
        )
        parts = [
            concrete.expected_cost(gates[block], gates[units], cost)
            for (block, units), cost in zip(BLOCKS, costs, strict=True)
        ]
        return parts[0] + parts[1]

    def target(self, total: int) -> float:
        """The share that is to be left after the steps so far, of ``total``."""
        warmup = self.how.warmup * total
        return 1 - (1 - self.spec.share) * (min(1.0, self._step / warmup) if warmup else 1.0)

    def before_step(self, optimizer: torch.optim.Optimizer, parts: list[Batch], total: int) -> None:
        """Add the Lagrangian to the gradients of the gates, which are the mean over processes, as those of the weights are."""
        self._total = total
        gates = list(self.gates.values())
        flat = torch.cat([(torch.zeros_like(a) if a.grad is None else a.grad).flatten() for a in gates])
        for a, gradient in zip(gates, reduce(flat, "mean").split([a.numel() for a in gates]), strict=True):
            a.grad = gradient.view_as(a)
        with torch.enable_grad():
            penalty = concrete.lagrangian(1 - self.expected(), 1 - self.target(total), self.multipliers)
            penalty.backward()  # type: ignore[no-untyped-call]
        assert self.multipliers.grad is not None
        self.multipliers.grad.neg_()  # they rise

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        self._step = step
        self._draw()
        return False

    def _draw(self) -> None:
        """The noise of the next step, drawn on the device: nothing is copied there."""
        self._generator.manual_seed(int(np.random.SeedSequence([*self._place, self._step]).generate_state(1)[0]))
        self._noise = {
            name: torch.rand(a.shape, generator=self._generator, device=a.device) for name, a in self.gates.items()
        }

    def shown(self) -> dict[str, float]:
        return {"share": self.expected().item(), "target": self.target(self._total)}

    def state(self) -> dict[str, Tensor]:
        own = {name: a.detach() for name, a in self.gates.items()}
        return {**own, "multipliers": self.multipliers.detach(), "step": torch.tensor(self._step)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, a in self.gates.items():
            a.copy_(state[name])
        self.multipliers.copy_(state["multipliers"])
        self._step = int(state["step"])
        self._draw()

    # ------------------------------------------------------------------------------------------------------ end

    @torch.no_grad()
    def layers(self) -> list[LayerGates]:
        """The gates of blocks and units as they would be cut, by layer."""
        values = self.values()
        names = [name for pair in BLOCKS for name in pair]
        return [LayerGates(*(values[name][number] for name in names)) for number in range(self._shape.layers)]

    @torch.no_grad()
    def _left(self, shift: float) -> float:
        """The share of the cost that is left if the gates are counted with this shift."""
        self._shift = shift
        values = self.values()
        costs = self._shares((values["hidden"] > 0).sum() if self.spec.hidden else self._shape.hidden)
        counts = [(values[units] * values[block][:, None] > 0).sum() for block, units in BLOCKS]
        return float(counts[0] * costs[0] + counts[1] * costs[1])

    def _meet_target(self) -> None:
        """Shift the count of what is closed until what is left is as near to the target as whole blocks and units allow.

        The Lagrangian swings around its target and may end beside it, most of all in a short stage.
        """
        low, high = -FARTHEST, FARTHEST
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._left(middle) <= self.spec.share else (low, middle)
        self._shift = min(low, high, key=lambda shift: abs(self._left(shift) - self.spec.share))

    def finish(self, proof: Callable[[], Batch]) -> bool:
        self._meet_target()
        return super().finish(proof)

    @torch.no_grad()
    def cut(self) -> PreTrainedModel:
        return cut(self.model, self.layers(), self.values().get("hidden"))

    @torch.no_grad()
    def record(self) -> dict[str, Any]:
        gates, whole = self.layers(), self._shape.hidden
        hidden = int((self.values()["hidden"] > 0).sum()) if self.spec.hidden else whole
        head, neuron = self._shares(hidden)
        return {
            "of": self.spec.of,
            "target": self.spec.share,
            "expected": float(self.expected()),
            "reached": sum(len(g.kept_heads) * head + len(g.kept_neurons) * neuron for g in gates),
            "hidden": hidden,
            "of_hidden": whole,
            "layers": [
                {
                    "heads": [number + 1 for number in g.kept_heads],
                    "of_heads": len(g.heads),
                    "neurons": len(g.kept_neurons),
                    "of_neurons": len(g.neurons),
                }
                for g in gates
            ],
        }
