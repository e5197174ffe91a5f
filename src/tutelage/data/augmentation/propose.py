"""TinyBERT's data augmentation: replace some words of a text by words that fit the context.

1. :func:`propose` computes substitution candidates for each word once and keeps them on disk (:class:`Candidates`). A masked
   language model proposes candidates for words of one token, word vectors for words of several tokens.
2. :func:`variants` draws augmented texts from the table. The random numbers depend only on the seed, the example, the field
   and the number of the variant. So variants need no disk space, and more variants or another probability need no second
   pass of the language model.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.augmentation.candidates import Candidates, CandidatesManifest, Context, checksum
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.batches import in_pieces, padded, pieces
from tutelage.data.draws import hashes
from tutelage.data.examples import Encoded, Rows
from tutelage.data.processes import ALONE, Processes
from tutelage.errors import TutelageError
from tutelage.version import __version__

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Default tokens per batch. On a CPU, the hidden states of a larger batch do not fit into the caches."""


_STOP_WORDS = """
a an the this that these those such same other another each every either neither both all any some no none few many much more
most several enough own
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves one oneself who whom whose which what someone anyone everyone somebody anybody
everybody nobody something anything everything nothing
am is are was were be been being do does did doing done have has had having can could may might must shall should will would
ought need cannot
about above across after against along among around as at before behind below beneath beside besides between beyond by despite
down during except for from in inside into like near of off on onto out outside over past per since through throughout till to
toward towards under until up upon via with within without
and but or nor so yet if unless because although though while whereas whether than then
when where why how here there now just only also too very not never ever again once further even still already almost quite
rather
s t d m ll re ve don doesn didn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn mustn needn mightn ain
ie eg e g
"""


STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English function words and the parts of contractions. They are neither replaced nor used as candidates."""


def propose(
    texts: Sequence[str],
    model: PreTrainedModel,
    tokenizer: Any,
    vectors: WordVectors | None = None,
    *,
    proposer: str,
    k: int = 15,
    context: Context = "masked_only",
    filtered: bool = True,
    max_tokens: int | None = None,
    advance: Callable[[int, int], None] = lambda count, total: None,
    say: Callable[[str], None] = lambda line: None,
    processes: Processes = ALONE,
) -> Candidates:
    """Compute substitution candidates for the words of ``texts``. Repeated texts are computed once.

    Words are runs of letters, except stop words. Words of one token get the ``k`` most probable predictions of ``model`` with
    the word masked. Words of several tokens get the ``k`` nearest words in ``vectors``, or no candidates without ``vectors``.
    Words beyond the model's longest input get no candidates. Several processes divide the batches of ``model``; each of them calls
    this with the same texts, and gets the whole table.

    Args:
        texts: the training texts.
        model: a ``...ForMaskedLM`` in eval mode, on the device to use. Autocast is left to the caller.
        tokenizer: the model's fast tokenizer.
        vectors: word vectors.
        proposer: the model's name, for the manifest.
        k: candidates per word.
        context: ``masked_only``, the text as in the paper; ``masked_plus_original``, the masked text followed by the
            original, as in the paper's code (the model then mostly sees the answer).
        filtered: skip the word itself, stop words and anything that is not purely letters. ``False`` takes the first ``k`` of
            the vocabulary except continuations (``##ing``), as the paper's code does.
        max_tokens: padded tokens per batch; by default a size that is fast on the model's device.
        advance: called with the number of inputs done since the last call and their total; of several processes, of this one.
        say: called with a line if memory does not suffice and batches are halved.
        processes: the processes that propose.

    Raises:
        TutelageError: if the model has no masked-language-model head or is in training mode, or the tokenizer has no mask
            token or is not a fast one.
    """
    _check(model, tokenizer, proposer)
    vocabulary = _Vocabulary.of(tokenizer, model.config.vocab_size, filtered)
    unique = list(dict.fromkeys(texts))
    order = np.argsort(hashes(unique))
    unique = [unique[i] for i in order]
    max_tokens = max_tokens or (CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS)
    words = _words(unique, tokenizer, context, anatomy.max_length(model.config), vocabulary)
    mask = int(tokenizer.mask_token_id)
    found = _predicted(words, model, mask, vocabulary, k, filtered, max_tokens, advance, say, processes)
    strings = dict.fromkeys(vocabulary.strings[i] for i in np.unique(found[found >= 0]))
    places = {string: place for place, string in enumerate(strings)}
    number = np.array([places.get(string, -1) for string in vocabulary.strings] + [-1])
    found = number[found]
    if vectors is not None:
        _fill_from_vectors(found, places, words, unique, vectors, filtered, model.device)
    has = found[:, 0] >= 0
    arrays: dict[str, npt.NDArray[Any]] = {
        "texts": hashes(unique),
        "offsets": np.searchsorted(words.text[has], np.arange(len(unique) + 1)),
        "spans": words.span[has],
        "choices": found[has].astype(np.int32),
    }
    manifest = CandidatesManifest(
        tutelage=__version__,
        proposer=proposer,
        vectors=None if vectors is None else vectors.name,
        k=k,
        context=context,
        filtered=filtered,
        texts=len(unique),
        words=int(has.sum()),
        strings=len(places),
        sha256=checksum(arrays, list(places)),
    )
    return Candidates(manifest, **arrays, strings=list(places))


def _predicted(
    words: _Words,
    model: PreTrainedModel,
    mask_token: int,
    vocabulary: _Vocabulary,
    k: int,
    filtered: bool,
    max_tokens: int,
    advance: Callable[[int, int], None],
    say: Callable[[str], None],
    processes: Processes,
) -> npt.NDArray[np.int64]:
    """``(words, k)``: token ids of the model's proposals, as :func:`_proposals`; -1 for words that it is not asked for."""
    found = np.full((len(words.text), k), -1, dtype=np.int64)
    lengths = words.encoded.lengths[words.text]
    # Whole batches are divided: padding, and so rounding, is that of one process.
    ours = pieces(np.flatnonzero(words.position >= 0), lengths, max_tokens)[processes.rank :: processes.count]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *ours])

    def propose_for(piece: Rows) -> None:
        found[piece] = _proposals(words, piece, model, mask_token, vocabulary, k, filtered)
        advance(len(piece), len(rows))

    def propose_ours() -> None:
        fitting = max_tokens
        for batch in ours:
            fitting = in_pieces(propose_for, batch, lengths, fitting, say)

    processes.each(propose_ours)
    for theirs, proposals in processes.exchange((rows, found[rows].astype(np.int32))):
        found[theirs] = proposals
    return found


def _check(model: PreTrainedModel, tokenizer: Any, proposer: str) -> None:
    if model.get_output_embeddings() is None or model.training:
        raise TutelageError(
            f"{proposer!r} must be a masked language model (...ForMaskedLM) in eval mode; load it as one"
        )
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise TutelageError(f"the tokenizer of {proposer!r} must be a fast one with a mask token; choose another model")


def _fill_from_vectors(
    found: npt.NDArray[np.int64],
    places: dict[str, int],
    words: _Words,
    texts: Sequence[str],
    vectors: WordVectors,
    filtered: bool,
    device: torch.device,
) -> None:
    """Give the words of several tokens their nearest words, in place; strings that are new get the next places."""
    several = np.flatnonzero(words.position == _SEVERAL)
    written = [texts[words.text[i]][slice(*words.span[i])] for i in several]
    near = _nearest(written, vectors, found.shape[1], filtered, device)
    for word, name in zip(several, written, strict=True):
        for place, string in enumerate(near[name]):
            found[word, place] = places.setdefault(string, len(places))


@dataclass(frozen=True)
class _Vocabulary:
    """The model's vocabulary as text."""

    strings: list[str]
    begins: npt.NDArray[np.bool_]
    """``(vocabulary,)``: whether a token begins a word."""
    allowed: Tensor
    """``(vocabulary,)``: whether a token may be a candidate."""
    folded: Tensor
    """``(vocabulary,)``: a number shared by tokens that differ only in case."""
    twins: int
    """Largest number of allowed tokens that differ only in case."""

    @classmethod
    def of(cls, tokenizer: Any, size: int, filtered: bool) -> _Vocabulary:
        count = min(size, len(tokenizer))
        tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
        decoded = tokenizer.backend_tokenizer.decode_batch([[i] for i in range(count)], skip_special_tokens=False)
        strings = [string.strip() for string in decoded] + [""] * (size - count)
        # Byte-level and SentencePiece vocabularies mark the pieces that begin a word, WordPiece those that do not.
        second = (tokenizer.tokenize("a a") or [""])[-1]
        mark = second.removesuffix("a") if second.endswith("a") else ""
        begins = np.zeros(size, dtype=np.bool_)
        begins[:count] = [token.startswith(mark) and not token.startswith("##") for token in tokens]
        allowed = np.array([bool(string) and not any(map(str.isspace, string)) for string in strings])
        allowed[:count] &= [not token.startswith("##") for token in tokens]
        if filtered:
            allowed &= begins & np.array([_is_content(string) for string in strings])
            allowed[[i for i in tokenizer.all_special_ids if i < size]] = False
        names = [string.casefold() for string in strings]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        twins = Counter(name for name, use in zip(names, allowed, strict=True) if use)
        return cls(
            strings,
            begins,
            torch.from_numpy(allowed),
            torch.tensor([numbers[name] for name in names]),
            max(twins.values(), default=0),
        )


def _is_content(word: str) -> bool:
    return word.isalpha() and word.casefold() not in STOP_WORDS


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


_SEVERAL = -1


_BEYOND = -2


@dataclass(frozen=True)
class _Words:
    """The replaceable words of the texts, and the texts encoded for the model."""

    encoded: Encoded
    text: npt.NDArray[np.int64]
    """``(words,)``: index of the text."""
    span: npt.NDArray[np.int32]
    """``(words, 2)``: start and end in characters; the end is exclusive."""
    position: npt.NDArray[np.int64]
    """``(words,)``: input position of a word of one token; else ``_SEVERAL`` (tokens) or ``_BEYOND`` (the longest input)."""


def _words(texts: list[str], tokenizer: Any, context: Context, longest: int, vocabulary: _Vocabulary) -> _Words:
    tokens: list[npt.NDArray[np.int32]] = []
    types: list[npt.NDArray[np.int8]] = []
    words: list[tuple[int, int, int, int]] = []
    cut: list[bool] = []
    has_types = "token_type_ids" in tokenizer.model_input_names
    for start in range(0, len(texts), 1024):
        chunk = texts[start : start + 1024]
        # No truncation here: words are needed from the whole text, and truncating a pair would shorten its first part, too.
        output = tokenizer(
            chunk, chunk if context == "masked_plus_original" else None, return_offsets_mapping=True, verbose=False
        )
        for number, (text, encoding) in enumerate(zip(chunk, output.encodings, strict=True), start=start):
            ids = np.array(encoding.ids, dtype=np.int32)
            for first, last, position in _words_of(text, encoding, vocabulary.begins[ids]):
                words.append((number, first, last, _BEYOND if position >= longest - 1 else position))
            kept = np.arange(len(ids)) if len(ids) <= longest else np.append(np.arange(longest - 1), len(ids) - 1)
            tokens.append(ids[kept])
            types.append(np.array(encoding.type_ids, dtype=np.int8)[kept])
            cut.append(len(ids) > longest)
    lengths = [len(ids) for ids in tokens]
    encoded = Encoded(
        tokens=np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int32),
        types=np.concatenate(types) if has_types and types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        cut=np.array(cut, dtype=np.bool_),
        pad_token=int(tokenizer.pad_token_id),
    )
    table = np.array(words, dtype=np.int64).reshape(-1, 4)
    return _Words(encoded, table[:, 0], table[:, 1:3].astype(np.int32), table[:, 3])


def _words_of(text: str, encoding: Any, begins: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Yield start, end (in characters) and input position of the replaceable words.

    These are the tokenizer's words, joined where the tokenizer splits between adjacent letters or digits, and without spaces
    and punctuation at their ends. As in BERT, symbols belong to the word: the C in °C is not a word.
    """
    words: list[list[tuple[int, int, int]]] = []
    last = None
    for place, (word, sequence, (start, end)) in enumerate(
        zip(encoding.word_ids, encoding.sequence_ids, encoding.offsets, strict=True)
    ):
        if sequence != 0:
            continue
        while start < end and text[start].isspace():
            start += 1
        if start == end:
            continue
        touches = words and words[-1][-1][1] == start and text[start - 1].isalnum() and text[start].isalnum()
        if words and (word == last or touches):
            words[-1].append((start, end, place))
        else:
            words.append([(start, end, place)])
        last = word
    for parts in words:
        start, end = parts[0][0], parts[-1][1]
        while start < end and _is_punctuation(text[start]):
            start += 1
        while start < end and _is_punctuation(text[end - 1]):
            end -= 1
        if _is_content(text[start:end]):
            inside = [part for part in parts if part[1] > start and part[0] < end]
            single = len(inside) == 1 and inside[0][:2] == (start, end) and begins[inside[0][2]]
            yield start, end, inside[0][2] if single else _SEVERAL


@torch.inference_mode()
def _proposals(
    words: _Words,
    chosen: Rows,
    model: PreTrainedModel,
    mask_token: int,
    vocabulary: _Vocabulary,
    k: int,
    filtered: bool,
) -> npt.NDArray[np.int64]:
    """``(chosen, k)``: token ids of the model's proposals, most probable first, padded with -1."""
    inputs = {name: value.to(model.device) for name, value in padded(words.encoded, words.text[chosen]).items()}
    rows, position = torch.arange(len(chosen), device=model.device), torch.from_numpy(words.position[chosen])
    position = position.to(model.device)
    originals = inputs["input_ids"][rows, position]
    inputs["input_ids"][rows, position] = mask_token
    hidden = anatomy.base_of(model)(**inputs)[0]
    scores = anatomy.word_scores(model, hidden[rows, position]).float()
    allowed = vocabulary.allowed.to(model.device)
    if filtered:
        scores = scores.masked_fill(~allowed, -torch.inf)
    values, found = scores.topk(min(k + vocabulary.twins * filtered, scores.shape[1]), dim=1)
    kept = allowed[found] & values.isfinite()
    if filtered:
        folded = vocabulary.folded.to(model.device)
        kept &= folded[found] != folded[originals][:, None]
    best = (~kept).int().argsort(dim=1, stable=True)[:, :k]
    result = np.full((len(chosen), k), -1, dtype=np.int64)
    result[:, : best.shape[1]] = torch.where(kept, found, -1).gather(1, best).cpu().numpy()
    return result


def _nearest(
    words: Sequence[str], vectors: WordVectors, k: int, filtered: bool, device: torch.device
) -> dict[str, list[str]]:
    unique = list(dict.fromkeys(words))
    usable = _is_content if filtered else lambda word: bool(word) and not any(map(str.isspace, word))
    allowed = np.array([usable(word) for word in vectors.words])
    return dict(zip(unique, vectors.neighbours(unique, k, allowed, device), strict=True))
