"""Load and compare tokenizers."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel) -> Any:
    """The tokenizer, restricted to the inputs of the model's ``forward`` (DistilBERT takes no token types)."""
    if anatomy.is_unread(model.config):
        return tokenizer
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
    """Load a tokenizer from a folder or the Hub. If it has no padding token (GPT-2), it pads with its end-of-text token.

    Raises:
        TutelageError: if there is no tokenizer, or it has neither of the two tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a damaged file can raise any exception of its parser
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TutelageError(f"cannot load the tokenizer of {name!r}: {reason}") from None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise TutelageError(
            f"the tokenizer of {name!r} has neither a padding token nor an end-of-text token; set one and save it again"
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of how a tokenizer splits text. Its current padding and truncation settings do not change it."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree.pop("padding", None)
    tree.pop("truncation", None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
