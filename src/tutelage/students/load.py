"""Load checkpoints from folders and the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head, auto_class
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError


def load_config(name: str) -> Any:
    """Load the configuration of a checkpoint from a folder or the Hub.

    GPT-2 classifies by the last token before the padding, so its configuration gets the padding token of the tokenizer.

    Raises:
        TutelageError: if there is no configuration, or its model type is not supported.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(name, error) from None
    if anatomy.family_of(config).causal:
        config.pad_token_id = load_tokenizer(name).pad_token_id
    return config


def _not_loaded(name: str, error: Exception) -> TutelageError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TutelageError(f"cannot load the model {name!r}: {reason}")


def load_model(name: str, head: Head = "classes", **settings: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model with this head from a folder or the Hub, in float32 and evaluation mode.

    Returns the model and the names of weights that the checkpoint lacks (they are random).

    Raises:
        TutelageError: if there is no such checkpoint, or its model type is not supported.
    """
    config = fitted_config(load_config(name), head)
    replaced = bool(settings)
    if anatomy.family_of(config).causal:
        settings = {**settings, "pad_token_id": config.pad_token_id}
    elif head == "causal_lm":
        settings = {**settings, "is_decoder": True}
    try:
        model, info = auto_class(head).from_pretrained(
            name,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            # If the caller gives labels, a head of another task is replaced on purpose.
            ignore_mismatched_sizes=replaced,
            **settings,
        )
    except (OSError, TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    return model.eval(), sorted(info["missing_keys"])


def head_in(folder: str) -> Head:
    """The head of a checkpoint: that of its class, or vectors where a folder says how to pool them."""
    if (Path(folder) / "modules.json").exists():
        return "vectors"
    return anatomy.head_named((load_config(folder).architectures or [""])[0])


def fitted_config(config: Any, head: Head) -> Any:
    """The configuration for a model with this head. For next words, attention becomes causal: a later token is the answer.

    Raises:
        TutelageError: if the family does not support the head.
    """
    causal = anatomy.family_of(config).causal
    if head == "masked_lm" and causal:
        raise TutelageError(
            f"a {config.model_type} is causal and cannot predict masked words; predict next words (pretrain --causal), "
            "or use another family"
        )
    if head != "causal_lm" or causal:
        return config
    if config.model_type not in ("bert", "roberta", "electra"):
        raise TutelageError(
            f"a {config.model_type} sees later tokens and cannot predict the next word; predict masked words, or use a gpt2, "
            "bert, roberta or electra"
        )
    config.is_decoder = True
    return config


def resolve(path: str) -> str:
    """The folder of a model: ``path``, or ``path/student`` if ``path`` is the folder of a run."""
    inside = Path(path) / "student"
    return str(inside) if not (Path(path) / "config.json").exists() and (inside / "config.json").exists() else path
