"""A trimmed vocabulary: the pieces that given texts use, and a floor that every other text can be spelled with.

A task uses a small part of a tokenizer's pieces, and in a small student the table of their embeddings is most of the weights.
Kept are

* the pieces of the texts, special tokens and added tokens;
* every piece of one character or byte, and each piece that these do not spell: a word that was known stays known;
* WordPiece (longest match): nothing else;
* BPE (merges): what the merges make on the way to a kept piece, and all merges between kept pieces;
* Unigram (best path): the piece with the lowest score, from which the price of an unknown character is counted.

A text of kept pieces is cut as before: what the whole tokenizer chose is still there, and nothing is new that could win over it.
Then the student, whose table has the rows of the kept pieces, computes the same as with the whole table.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.errors import TutelageError

Ids = npt.NDArray[np.int64]

BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A piece that stands for one byte of a character without a piece."""


@dataclass(frozen=True)
class Vocabulary:
    """What a student keeps of a tokenizer's vocabulary.

    * ``whole``: the tokenizer as it was.
    * ``tokenizer``: the same with the kept pieces alone.
    * ``kept`` ``(pieces,)``: the former id of each piece, by its new one.
    * ``rows``: the rows of the former embedding table.
    """

    whole: Any
    tokenizer: Any
    kept: Ids
    rows: int

    @classmethod
    def of(cls, whole: Any, config: Any, used: Ids) -> Vocabulary:
        """The vocabulary for texts with the pieces ``used``, out of that of a model with this ``config``.

        Raises:
            TutelageError: if the tokenizer is of a kind that is not trimmed, or the model lacks a token of it.
        """
        rows = anatomy.shape_of(config).vocabulary
        # Families that number positions from the padding token need it, and what is before it, at the same id.
        needed = [*range(anatomy.first_position(config)), *_named(config).values()]
        tokenizer, kept = trim(whole, np.union1d(used, np.array(needed, dtype=np.int64)))
        if rows <= kept.max():
            raise TutelageError(
                f"the token {whole.convert_ids_to_tokens(int(kept.max()))!r} of the tokenizer has the id {kept.max()}, but the "
                f"model has {rows} embeddings, of which vocabulary=trimmed keeps those of all special tokens; resize them "
                "(resize_token_embeddings), or leave out vocabulary=trimmed"
            )
        return cls(whole, tokenizer, kept, rows)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(old): new for new, old in enumerate(self.kept)}

    def config(self, config: Any) -> Any:
        """A configuration with the kept pieces' number and the special tokens' new ids.

        Raises:
            TutelageError: if positions would be numbered from another place.
        """
        made = copy.deepcopy(config)
        for part in {id(one): one for one in (made, made.get_text_config())}.values():
            part.vocab_size = len(self.kept)
            for name, value in _named(part).items():
                setattr(part, name, self._places.get(value))
        if anatomy.first_position(made) != anatomy.first_position(config):
            raise TutelageError(
                f"the positions of a {config.model_type} are numbered from its padding token, whose id {config.pad_token_id} "
                "would change; leave out vocabulary=trimmed"
            )
        return made

    def network(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of a model with the kept rows of its embedding table; all other weights are the model's own, not copied.

        Raises:
            TutelageError: if the model's table is not known.
        """
        family = anatomy.family_of(model.config)
        if not family.layers:
            raise TutelageError(
                f"the vocabulary of a {model.config.model_type} cannot be trimmed; leave out vocabulary=trimmed, or use a "
                "fresh student with family=bert"
            )
        table = anatomy.word_embeddings_of(model)
        smaller = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table.weight.detach()[torch.from_numpy(self.kept).to(table.weight.device)],
            freeze=not table.weight.requires_grad,
            padding_idx=None if table.padding_idx is None else self._places.get(table.padding_idx),
        )
        # What deepcopy finds in its memo it takes instead of a copy.
        taken: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
        configs = [
            module.config for module in model.modules() if isinstance(getattr(module, "config", None), PreTrainedConfig)
        ]
        taken |= {id(one): self.config(one) for one in {id(one): one for one in configs}.values()}
        return copy.deepcopy(model, {**taken, id(table): smaller})


def _named(config: Any) -> dict[str, int]:
    """The token ids in a configuration."""
    return {
        name: value for name, value in vars(config).items() if name.endswith("_token_id") and isinstance(value, int)
    }


def trim(tokenizer: Any, used: Ids) -> tuple[Any, Ids]:
    """A fast tokenizer with the pieces ``used`` and the floor; and ``(pieces,)`` the former id of each piece, by its new one.

    The order of the pieces is kept.

    Raises:
        TutelageError: if it is neither WordPiece, BPE nor Unigram.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model = tree["model"]
    if model.get("type") not in ("WordPiece", "BPE", "Unigram"):
        raise TutelageError(
            f"vocabulary=trimmed is for WordPiece, BPE and Unigram tokenizers, and this one is a {model.get('type')}; leave it out"
        )
    unigram = model["type"] == "Unigram"
    pieces = {number: piece for number, (piece, _) in enumerate(model["vocab"])} if unigram else _by_id(model["vocab"])
    added = {token["id"] for token in tree["added_tokens"]}
    around = _renumbered(tree["post_processor"], None)
    wanted = {int(number) for number in used} | added | around | set(tokenizer.all_special_ids)
    kept = {number for number in wanted if number in pieces} | _floor(model, pieces)
    if model["type"] == "BPE":
        kept |= _on_the_way(model, pieces, kept)
    order = [*sorted(kept), *sorted(added - set(pieces))]  # tokens outside the model are numbered after its pieces
    places = {old: new for new, old in enumerate(order)}
    if unigram:
        model["vocab"] = [model["vocab"][old] for old in sorted(kept)]
        if model["unk_id"] is not None:
            model["unk_id"] = places[model["unk_id"]]
    else:
        model["vocab"] = {pieces[old]: places[old] for old in sorted(kept)}
    if model["type"] == "BPE":
        known = set(model["vocab"])
        model["merges"] = [pair for pair in _merges(model) if known.issuperset((*pair, _merged(model, *pair)))]
    tree["added_tokens"] = sorted(
        ({**token, "id": places[token["id"]]} for token in tree["added_tokens"]), key=lambda token: token["id"]
    )
    _renumbered(tree["post_processor"], places)
    if tree["padding"] is not None:
        tree["padding"]["pad_id"] = places[tree["padding"]["pad_id"]]
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(tree))
    trimmed._tokenizer.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    return trimmed, np.array(order, dtype=np.int64)


def _by_id(vocabulary: dict[str, int]) -> dict[int, str]:
    return {number: piece for piece, number in vocabulary.items()}


def _floor(model: dict[str, Any], pieces: dict[int, str]) -> set[int]:
    """Ids of the pieces with which every word can be spelled that the tokenizer knows."""
    known = set(pieces.values())
    kept = set()
    for number, piece in pieces.items():
        characters = _characters(model, piece)
        single = len(characters) <= 1 or (model.get("byte_fallback") and BYTE.fullmatch(piece))
        if single or piece == model.get("unk_token") or not known.issuperset(characters):
            kept.add(number)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {scores.index(min(scores)), *([] if model["unk_id"] is None else [model["unk_id"]])}
    return kept


def _characters(model: dict[str, Any], piece: str) -> list[str]:
    """The pieces of one character that a piece is made of, with the marks of their places in a word."""
    inside, last = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    begins = not (inside and piece.startswith(inside))
    ends = bool(last) and piece.endswith(last)
    characters = list((piece if begins else piece.removeprefix(inside)).removesuffix(last if ends else ""))
    found = [one if begins and place == 0 else inside + one for place, one in enumerate(characters)]
    return [*found[:-1], found[-1] + last] if ends and found else found


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges of a BPE, those of the lowest rank first; older files have them as one string each."""
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(one, other) for one, other in pairs]


def _merged(model: dict[str, Any], one: str, other: str) -> str:
    return one + other.removeprefix(model.get("continuing_subword_prefix") or "")


def _on_the_way(model: dict[str, Any], pieces: dict[int, str], kept: Iterable[int]) -> set[int]:
    """Ids of what the merges of a BPE make, one after the other, out of the characters of the ``kept`` pieces."""
    ranks = {pair: rank for rank, pair in enumerate(_merges(model))}
    found: set[int] = set()
    for number in kept:
        row = _characters(model, pieces[number])
        while True:
            ranked = [(ranks[pair], place) for place, pair in enumerate(pairwise(row)) if pair in ranks]
            if not ranked:
                break
            place = min(ranked)[1]
            row[place : place + 2] = [_merged(model, *row[place : place + 2])]
            found.add(model["vocab"][row[place]])
    return found


def _renumbered(processor: dict[str, Any] | None, places: dict[int, int] | None) -> set[int]:
    """The token ids in the description of what puts special tokens around a text; with ``places``, new ones replace them."""
    found: set[int] = set()

    def change(number: int) -> int:
        found.add(number)
        return number if places is None else places[number]

    if processor is None:
        return found
    for part in processor.get("processors", ()):
        found |= _renumbered(part, places)
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], change(processor[name][1])]
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [change(number) for number in special["ids"]]
    return found
