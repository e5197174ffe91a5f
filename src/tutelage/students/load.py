"""Loading checkpoints from folders and the Hub."""

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
    """The configuration of a checkpoint, a folder or on the hub.

    A GPT-2 classifies by the last token that is no padding, so its padding token is the tokenizer's, which it may lack.

    Raises:
        TutelageError: when there is none, or it is of an unknown family.
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
    """A model with this head from a folder or the hub, in float32 and evaluation mode; and the weights it had to make up.

    Raises:
        TutelageError: when there is no such checkpoint, or it is of an unknown family.
    """
    config = fitted_config(load_config(name), head)
    replaced = bool(settings)
    if anatomy.family_of(config).causal:
        settings = {**settings, "pad_token_id": config.pad_token_id}
    elif head == "next_words":
        settings = {**settings, "is_decoder": True}
    try:
        model, info = auto_class(head).from_pretrained(
            name,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            # A head of another task is replaced, on purpose, where the caller says which labels there are.
            ignore_mismatched_sizes=replaced,
            **settings,
        )
    except (OSError, TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    return model.eval(), sorted(info["missing_keys"])


def fitted_config(config: Any, head: Head) -> Any:
    """The configuration; for next words changed so that no token sees a later one, which is the answer.

    Raises:
        TutelageError: for a family that cannot learn what the head is for.
    """
    causal = anatomy.family_of(config).causal
    if head == "words" and causal:
        raise TutelageError(
            f"a {config.model_type} sees no later tokens and cannot learn masked words; use next words (pretrain --causal), "
            "or another family"
        )
    if head != "next_words" or causal:
        return config
    if config.model_type not in ("bert", "roberta", "electra"):
        raise TutelageError(
            f"a {config.model_type} sees later tokens and cannot learn the next word; use masked words, or a gpt2, bert, "
            "roberta or electra"
        )
    config.is_decoder = True
    return config


def resolve(path: str) -> str:
    """A model's folder: the path itself, or ``student/`` in it if it is the folder of a run."""
    inside = Path(path) / "student"
    return str(inside) if not (Path(path) / "config.json").exists() and (inside / "config.json").exists() else path
