"""Tokenizers: where they come from, and by what they are recognised."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel) -> Any:
    """The tokenizer, giving only what the model's ``forward`` takes (DistilBERT has no token types)."""
    has_types = anatomy.has_token_types(model.config)
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    if has_types and "token_type_ids" not in tokenizer.model_input_names:
        return tokenizer
    if list(tokenizer.model_input_names) == names:
        return tokenizer
    fitted = copy.deepcopy(tokenizer)
    fitted.model_input_names = names
    fitted.init_kwargs["model_input_names"] = names
    return fitted


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a folder or the hub. One without a padding token (GPT-2's) pads with the token that ends a text.

    Raises:
        TutelageError: when there is none, or it has neither.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a damaged file ends in whatever its reader raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TutelageError(f"cannot load the tokenizer of {name!r}: {reason}") from None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise TutelageError(
            f"the tokenizer of {name!r} has neither a padding token nor one that ends a text; set one and save it again"
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A name for what a tokenizer does, whatever it was last asked to pad or cut."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree.pop("padding", None)
    tree.pop("truncation", None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
