"""A model run layer by layer, with what goes into and out of parts of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy

Inputs = dict[str, Tensor]


class _Stop(Exception):
    """Ends a forward pass where the layers begin."""


@dataclass
class Place:
    """A batch on its way through the layers of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    real: Tensor
    """``(batch, length)``: the real tokens."""

    @classmethod
    def at(cls, model: PreTrainedModel, inputs: Inputs) -> Place:
        """A batch before the first layer, with what the model gives to all layers."""
        found: list[Place] = []

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(cls(args, kwargs, inputs["attention_mask"].bool()))
            raise _Stop

        hook = anatomy.layers_of(model)[0].register_forward_pre_hook(begin, with_kwargs=True)
        try:
            anatomy.output_of(model, inputs)
        except _Stop:
            pass
        finally:
            hook.remove()
        return found[0]

    def peek(self, layer: nn.Module) -> Tensor:
        """Run a layer and stay before it."""
        result = layer(*self.args, **self.kwargs)
        hidden: Tensor = result[0] if isinstance(result, tuple) else result
        return hidden

    def run(self, layer: nn.Module) -> None:
        """Run a layer and stand behind it."""
        self.args = (self.peek(layer), *self.args[1:])


class Watched:
    """What goes into (``in``) and out of (``out``) parts of a layer in the next run."""

    def __init__(self, layer: nn.Module, what: Sequence[tuple[str, str]]) -> None:
        self._found: dict[tuple[str, str], Tensor] = {}
        self._hooks = [self._watch(layer.get_submodule(path), path, side) for path, side in what]

    def _watch(self, module: nn.Module, path: str, side: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self._found[path, side] = args[0] if side == "in" else output

        return module.register_forward_hook(keep)

    def close(self) -> dict[tuple[str, str], Tensor]:
        """What was seen, by part and side; watches no further run."""
        for hook in self._hooks:
            hook.remove()
        return self._found
