"""Networks inside a network (DynaBERT, Hou et al. 2020, arXiv 2004.04037): the first heads and neurons of each layer, and some of
the layers. They share their weights with the whole, whose heads and neurons stand in the order of their importance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError, option
from tutelage.students.load import setting_of
from tutelage.students.pruned import check_family, with_units
from tutelage.students.sizes import Costs, Sizes

RECORD = "subnetworks"
"""Field of a checkpoint's configuration: the widths and depths that were trained in it."""
ROUNDING = 1e-9
"""What a product of two sizes may be wrong by: 12 * 0.7 is a little more or less than it should be."""


@dataclass(frozen=True)
class Subnetwork:
    """Which parts of the whole network a smaller one has."""

    width: float
    """Share of the heads and neurons."""
    depth: float
    """Share of the layers."""
    heads: int
    """The first heads of each layer."""
    neurons: int
    """The first feed-forward neurons of each layer."""
    layers: tuple[int, ...]
    """Its layers (from 0)."""

    @property
    def name(self) -> str:
        return f"width {self.width:g}, depth {self.depth:g}"


def kept_layers(depth: float, count: int) -> tuple[int, ...]:
    """The layers (from 0) of a sub-network of a network of ``count`` layers: ``floor(i / depth)``, of 12 at depth 0.75 all but each
    fourth (section 2.2 of the paper)."""
    return tuple(math.floor(i / depth + ROUNDING) for i in range(_rounded(depth * count)))


def _rounded(size: float) -> int:
    return max(1, math.floor(size + 0.5 + ROUNDING))


def subnetwork(config: Any, width: float, depth: float) -> Subnetwork:
    """The sub-network of a network with this configuration. Heads are rounded up. They are all there where single ones cannot be
    removed.

    Raises:
        TutelageError: if neurons cannot be removed in this family.
    """
    check_family(config)
    shape, fixed = anatomy.shape_of(config), anatomy.family_of(config).heads_fixed
    heads = shape.heads if fixed is not None else math.ceil(width * shape.heads - ROUNDING)
    return Subnetwork(width, depth, heads, _rounded(width * shape.intermediate), kept_layers(depth, shape.layers))


def subnetworks(config: Any, widths: Sequence[float], depths: Sequence[float]) -> list[Subnetwork]:
    """All sub-networks of these widths and depths, the whole network last. Two multipliers that a small network rounds to the same
    sizes are one, the larger.

    Raises:
        TutelageError: as :func:`subnetwork`.
    """
    found: dict[Any, Subnetwork] = {}
    for depth in sorted(depths, reverse=True):
        for width in sorted(widths, reverse=True):
            one = subnetwork(config, width, depth)
            found.setdefault((one.heads, one.neurons, one.layers), one)
    return list(found.values())[::-1]


def share_of(model: PreTrainedModel, one: Subnetwork) -> float:
    """Operations of a sub-network's layers, as a share of the whole network's."""
    shape, costs = anatomy.shape_of(model.config), Costs(model, None)
    whole = costs.flops(Sizes(shape.layers, shape.heads, shape.intermediate))
    return costs.flops(Sizes(len(one.layers), one.heads, one.neurons)) / whole


def cut(model: PreTrainedModel, one: Subnetwork) -> PreTrainedModel:
    """A sub-network as a network of its own, with copies of the weights."""
    units = (torch.arange(one.heads), torch.arange(one.neurons))
    made = with_units(model, one.layers, [units] * len(one.layers), {})
    if hasattr(made.config, RECORD):
        delattr(made.config, RECORD)
    return made


class Supernet:
    """Lets a model compute as one of its sub-networks, with its own weights: matrices are sliced, layers are skipped.

    Outside of :meth:`only` the model computes as before. :meth:`close` removes what was put in.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_family(model.config)
        self._model, self._family = model, anatomy.family_of(model.config)
        self._size = anatomy.shape_of(model.config).hidden // anatomy.shape_of(model.config).heads
        self._columns: int | None = None
        self._neurons: int | None = None
        family = self._family
        rows: dict[str, Callable[[], int | None]] = {family.ffn_up: lambda: self._neurons}
        columns: dict[str, Callable[[], int | None]] = {family.ffn_down: lambda: self._neurons}
        if family.heads_fixed is None:
            for path in (family.query, family.key, family.value):
                rows[path] = lambda: self._columns
            columns[family.attention_output] = lambda: self._columns
        self._modules: list[nn.Module] = []
        for layer in anatomy.layers_of(model):
            for path in (*rows, *columns):
                module = layer.get_submodule(path)
                make = _rows if path in rows else _columns
                # The class's own method is hidden, not replaced: parameters and their names stay as they are.
                cast(Any, module).forward = make(cast("nn.Linear", module), (rows | columns)[path])
                self._modules.append(module)

    @contextmanager
    def only(self, one: Subnetwork) -> Iterator[None]:
        """The model computes as this sub-network."""
        layers, base = anatomy.layers_of(self._model), anatomy.base_of(self._model)
        self._columns, self._neurons = one.heads * self._size, one.neurons
        if len(one.layers) < len(layers):
            base.set_submodule(self._family.layers, nn.ModuleList(layers[place] for place in one.layers))
        try:
            yield
        finally:
            self._columns = self._neurons = None
            base.set_submodule(self._family.layers, layers)

    def close(self) -> None:
        for module in self._modules:
            del module.forward


def _rows(module: nn.Linear, count: Callable[[], int | None]) -> Callable[[Tensor], Tensor]:
    """``forward`` with the first outputs."""
    return lambda x: nn.functional.linear(x, module.weight[: count()], module.bias[: count()])


def _columns(module: nn.Linear, count: Callable[[], int | None]) -> Callable[[Tensor], Tensor]:
    """``forward`` of the first inputs."""
    return lambda x: nn.functional.linear(x, module.weight[:, : count()], module.bias)


def record(model: PreTrainedModel, widths: Sequence[float], depths: Sequence[float]) -> None:
    """Note in a model's configuration which sub-networks it was trained to have. What is made from its checkpoint later does not
    inherit the note."""
    setattr(model.config, RECORD, {"widths": sorted(widths), "depths": sorted(depths)})


def chosen(name: str, config: Any, width: float | None, depth: float | None) -> Subnetwork:
    """The sub-network of a checkpoint; a size that is not given is the whole one.

    Args:
        name: The checkpoint: a folder or Hub id.
        config: Its configuration.
        width: Share of the heads and neurons.
        depth: Share of the layers.

    Raises:
        TutelageError: if the checkpoint has none, or none of this width or depth.
    """
    noted = setting_of(name, RECORD)
    if not isinstance(noted, dict):
        raise TutelageError(
            f"the model {name!r} has no sub-networks; leave out {option('width')} and {option('depth')}, or train one with "
            f"{option('method')} dynabert"
        )
    for what, value in (("width", width), ("depth", depth)):
        trained = [one for one in noted.get(f"{what}s") or () if isinstance(one, int | float)]
        if value is not None and value not in trained:
            raise TutelageError(
                f"{option(what)} {value:g} was not trained: the model {name!r} has the {what}s "
                f"{', '.join(f'{one:g}' for one in trained)}; use one of them"
            )
    return subnetwork(config, 1.0 if width is None else width, 1.0 if depth is None else depth)
