"""FSDP2: the processes divide the weights, gradients and optimiser states of what they train.

The loop trains a divided copy, because PyTorch cannot put a divided module together again. The module itself waits on the CPU and
gets the copy's weights where whole ones are needed: for the gradients of the terms in the first step, to score, to write a
checkpoint, at the end of the stage.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.knowledge.needs import Needs

M = TypeVar("M", bound=nn.Module)


FSDP = "ACCELERATE_USE_FSDP"
"""What ``accelerate launch --use_fsdp`` sets in the environment of each process."""


def switched_on(name: str) -> bool:
    """Whether a variable of the environment is set to true."""
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")


def divided(module: M, student: nn.Module, needs: Needs, device: torch.device) -> M:
    """A copy of ``module`` on ``device``, divided by the layers of its student, or of each of several students. ``module`` goes to
    the CPU. Every process calls this, when frozen parameters are marked. ``needs`` is what the objective reads of the student."""
    module.to("cpu")
    copied, kept = copy.deepcopy((module, student))
    world = torch.distributed.get_world_size()
    mesh = init_device_mesh(device.type, (world,))
    # Gradients of queries and keys enter a layer without passing its output, where FSDP would gather its weights a second time.
    again = not needs.attention
    uses = Counter(id(p) for _, p in copied.named_parameters(remove_duplicate=False))
    for model in kept if isinstance(kept, nn.ModuleList) else [kept]:
        model = cast(PreTrainedModel, model)  # or a sentence encoder, which has the same parts
        for layer in anatomy.layers_of(model) if anatomy.family_of(model.config).layers else ():
            # A weight that two layers share is divided with what lies outside of the layers.
            if all(uses[id(parameter)] == 1 for parameter in layer.parameters()):
                fully_shard(layer, mesh=mesh, reshard_after_forward=again)
    fully_shard(copied, mesh=mesh)
    return copied


def gather(copied: nn.Module, module: nn.Module) -> None:
    """Give ``module`` the weights of its divided copy. Every process calls this."""
    with torch.no_grad():
        for part, mine in zip(copied.state_dict().values(), module.state_dict().values(), strict=True):
            mine.copy_(whole(part))


@contextmanager
def lent(copied: nn.Module, module: nn.Module, device: torch.device) -> Iterator[None]:
    """While this lasts, ``module`` is on ``device`` with the weights of its divided copy. Every process calls this."""
    gather(copied, module)
    module.to(device)
    yield
    module.to("cpu")


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may have a part. Then every process calls this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor that belongs to ``parameter``: all of it where that is not divided."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    # Each process has the tensor already: nothing is sent.
    there = tensor.to(parameter.device)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)
