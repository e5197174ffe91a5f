"""Tokenizers: where they come from, and by what they are recognised."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import AutoTokenizer

from tutelage.errors import TutelageError


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
