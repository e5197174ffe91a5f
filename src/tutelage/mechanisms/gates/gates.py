"""Gates in a model while it trains, and their removal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.mechanisms.gates import concrete
from tutelage.mechanisms.gates.settings import Gates
from tutelage.mechanisms.hook import Hook, parameter_groups
from tutelage.students.sizes import unit_shares
from tutelage.students.specs import Gated
from tutelage.students.uneven import LayerGates, cut

START = 2.5
"""The ``a`` of a gate at the beginning: it is 1 in 71 of 100 draws, and 0 in 2."""
WAY = 5.0
"""How far ``a`` goes from there until a gate is 0 in 71 of 100 draws."""
FARTHEST = 30.0
"""A shift that opens or closes every gate."""
NAMES = ("attention", "heads", "feed_forward", "neurons")


class GateHook(Hook):
    """Multiplies what blocks, heads and neurons give by gates, and trains the gates.

    A gate of 0 at a block skips it with its norm; so does a block all of whose heads or neurons are closed. Where gradients are
    computed the gates are random, with one draw a step that follows from the seed, the stage and the step alone. Elsewhere they are
    as they would be cut.

    Args:
        place: The run's seed and the stage's number.
        settle: Called at the end of the stage with a record of what is left.
    """

    def __init__(
        self,
        how: Gates,
        spec: Gated,
        model: PreTrainedModel,
        place: tuple[int, int],
        settle: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        shape = anatomy.shape_of(model.config)
        self.how, self.spec, self.model, self._settle, self._place = how, spec, model, settle, place
        device = next(model.parameters()).device
        sizes = ((shape.layers,), (shape.layers, shape.heads), (shape.layers,), (shape.layers, shape.intermediate))
        self.gates = {
            name: nn.Parameter(torch.full(size, START, device=device)) for name, size in zip(NAMES, sizes, strict=True)
        }
        self.multipliers = nn.Parameter(torch.zeros(2, device=device))
        self._costs = unit_shares(shape, spec.of)
        self._step = self._total = 0
        self._generator = torch.Generator(device)
        self._noise: dict[str, Tensor] = {}
        self._draw()
        self._now: dict[str, Tensor] = {}
        self._shift = 0.0
        self._handles = [anatomy.base_of(model).register_forward_pre_hook(self._begin)]
        family = anatomy.family_of(model.config)
        for number, layer in enumerate(anatomy.layers_of(model)):
            for block, units, inner, norm in (
                ("attention", "heads", family.attention_output, family.attention_norm),
                ("feed_forward", "neurons", family.ffn_down, family.ffn_norm),
            ):
                matrix = layer.get_submodule(inner)
                self._handles += [
                    matrix.register_forward_pre_hook(self._at_units(units, number)),
                    matrix.register_forward_hook(self._at_block(block, number)),
                    layer.get_submodule(norm).register_forward_hook(self._at_norm(block, number)),
                ]

    # --------------------------------------------------------------------------------------------- in the model

    def _begin(self, module: nn.Module, args: Any) -> None:
        """The gates of a forward pass."""
        self._now = self.values()

    def values(self) -> dict[str, Tensor]:
        """The gates by name: random where gradients are computed, else as they would be cut.

        A block is closed, too, if all its heads or neurons are.
        """
        if torch.is_grad_enabled():
            found = {name: concrete.sampled(a, self._noise[name]) for name, a in self.gates.items()}
        else:
            found = {}
            for block, units in (NAMES[:2], NAMES[2:]):
                alone = self.gates[block][:, None]  # each block is decided on its own
                found[block] = concrete.settled(alone, shift=self._shift)[:, 0]
                within = concrete.open_probability(alone + self._shift)
                found[units] = concrete.settled(self.gates[units], within, self._shift)
        for block, units in (NAMES[:2], NAMES[2:]):
            found[block] = found[block] * (found[units] > 0).any(-1)
        return found

    def _at_units(self, units: str, number: int) -> Any:
        def multiply(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            gates = self._now[units][number]
            return (args[0] * gates.repeat_interleave(args[0].shape[-1] // len(gates)),)

        return multiply

    def _at_block(self, block: str, number: int) -> Any:
        def multiply(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output * self._now[block][number]

        return multiply

    def _at_norm(self, block: str, number: int) -> Any:
        def skip(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            # The norm reads the sum of a block's input and output. Of a closed block that is its input.
            return torch.where(self._now[block][number] > 0, output, args[0])

        return skip

    # ------------------------------------------------------------------------------------------------- training

    def parameter_groups(self, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The usual ones, and the gates with the multipliers, at a rate of their own."""
        own = [*self.gates.values(), self.multipliers]
        return [
            *parameter_groups(module, weight_decay),
            {"params": own, "weight_decay": 0.0, "rate": self.how.rate},
        ]

    def expected(self) -> Tensor:
        """The share of the cost that is expected to be left, ``()``."""
        head, neuron = self._costs
        gates = self.gates
        return concrete.expected_cost(gates["attention"], gates["heads"], head) + concrete.expected_cost(
            gates["feed_forward"], gates["neurons"], neuron
        )

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
        """The gates as they would be cut, by layer."""
        values = self.values()
        return [LayerGates(*(values[name][number] for name in NAMES)) for number in range(len(values["attention"]))]

    @torch.no_grad()
    def _left(self, shift: float) -> float:
        """The share of the cost that is left if the gates are counted with this shift."""
        self._shift = shift
        values, (head, neuron) = self.values(), self._costs
        heads = (values["heads"] * values["attention"][:, None] > 0).sum()
        neurons = (values["neurons"] * values["feed_forward"][:, None] > 0).sum()
        return float(heads * head + neurons * neuron)

    def _meet_target(self) -> None:
        """Shift the count of what is closed until what is left is as near to the target as whole blocks and units allow.

        The Lagrangian swings around its target and may end beside it, most of all in a short stage.
        """
        low, high = -FARTHEST, FARTHEST
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._left(middle) <= self.spec.share else (low, middle)
        self._shift = min(low, high, key=lambda shift: abs(self._left(shift) - self.spec.share))

    @torch.no_grad()
    def finish(self, proof: Callable[[], Batch]) -> bool:
        """Remove what is closed, and record what is left."""
        expected = float(self.expected())
        self._meet_target()
        batch, gates = proof(), self.layers()
        before = anatomy.answers_of(self.model, batch.inputs, batch.predicted)
        smaller = cut(self.model, gates)
        for handle in self._handles:
            handle.remove()
        anatomy.become(self.model, smaller)
        after = anatomy.answers_of(self.model, batch.inputs, batch.predicted)
        head, neuron = self._costs
        self._settle(
            {
                "of": self.spec.of,
                "target": self.spec.share,
                "expected": expected,
                "reached": sum(len(g.kept_heads) * head + len(g.kept_neurons) * neuron for g in gates),
                "layers": [
                    {
                        "heads": [number + 1 for number in g.kept_heads],
                        "of_heads": len(g.heads),
                        "neurons": len(g.kept_neurons),
                        "of_neurons": len(g.neurons),
                    }
                    for g in gates
                ],
                "difference": float((after - before).abs().max()),
                "largest_logit": float(before.abs().max()),
            }
        )
        return True
