"""Load and compare tokenizers."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from tutelage import anatomy
from tutelage.anatomy.checkpoints import VOCABULARIES, check_fetched, resolve_tokenizer
from tutelage.errors import TutelageError, last_reason

UNKNOWN_LIMIT = int(1e30)
"""The length that transformers gives to a tokenizer that knows no limit."""


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel, longest: int | None = None) -> Any:
    """The tokenizer, restricted to the inputs of the model's ``forward`` (DistilBERT takes no token types) and to its length.

    A tokenizer that knows no limit, as old checkpoints have it, cannot cut texts where the model is served. ``longest`` is the
    length that the model is trained or checked with, and replaces a limit that the tokenizer was saved with.
    """
    has_types = anatomy.has_token_types(model.config)
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    if anatomy.is_unread(model.config) or (has_types and "token_type_ids" not in tokenizer.model_input_names):
        names = list(tokenizer.model_input_names)
    longest = longest or min(int(tokenizer.model_max_length), anatomy.max_length(model.config))
    if list(tokenizer.model_input_names) == names and tokenizer.model_max_length == longest:
        return tokenizer
    fitted = copy.deepcopy(tokenizer)
    fitted.model_input_names, fitted.model_max_length = names, longest
    fitted.init_kwargs |= {"model_input_names": names, "model_max_length": longest}
    return fitted


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer from a folder or the Hub. If it has no padding token (GPT-2), it pads with its end-of-text token.

    Raises:
        TutelageError: if there is no tokenizer, it has no fast version or neither of the two tokens, or it is damaged.
    """
    path = resolve_tokenizer(name)
    if Path(path).is_dir():
        _check_files(name, Path(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, config=_family_in(path))
        tokenizer("A trial.", truncation=True, max_length=8)
    except Exception as error:  # a damaged file can raise any exception of its parser
        raise TutelageError(f"cannot load the tokenizer of {name!r}: {last_reason(error)}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise TutelageError(
            f"the tokenizer of {name!r}, a {type(tokenizer).__name__}, has no fast version, which is needed to know where texts "
            "are cut; use a model whose folder has a tokenizer.json"
        )
    limit = tokenizer.model_max_length
    tokenizer.model_max_length = (
        int(limit) if isinstance(limit, int | float) and 0 < limit <= UNKNOWN_LIMIT else UNKNOWN_LIMIT
    )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise TutelageError(f"the tokenizer of {name!r} knows no words; save the model's own beside it")
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise TutelageError(
            f"the tokenizer of {name!r} has neither a padding token nor an end-of-text token; set one and save it again"
        )
    return tokenizer


def _family_in(path: str) -> Any:
    """What a tokenizer needs of a model's configuration: its family. Other settings, which may be wrong, are judged where the model
    is loaded. ``None`` where it says nothing."""
    try:
        place = Path(path) / "config.json" if Path(path).is_dir() else Path(str(cached_file(path, "config.json")))
        tree = json.loads(place.read_text(encoding="utf-8"))
        named = {key: tree[key] for key in ("tokenizer_class", "model_name") if key in tree}
        return CONFIG_MAPPING[tree["model_type"]].from_dict(named, name_or_path=path)
    except (
        Exception
    ):  # no file, another content, or a family that needs more: transformers reads the file in its own way
        return None


def _check_files(name: str, path: Path) -> None:
    """See that a folder has the vocabulary of a tokenizer. Without one transformers makes a tokenizer that knows no word."""
    files = [path / one for one in (*VOCABULARIES, "tokenizer_config.json") if (path / one).is_file()]
    if not {one.name for one in files} & set(VOCABULARIES):
        raise TutelageError(
            f"the folder {name!r} holds no tokenizer (tokenizer.json or vocab.txt); save the model's own there: "
            f"AutoTokenizer.from_pretrained(BASE).save_pretrained({str(path)!r})"
        )
    for one in files:
        check_fetched(name, one)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of how a tokenizer splits text. Its current padding and truncation settings do not change it."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree.pop("padding", None)
    tree.pop("truncation", None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
