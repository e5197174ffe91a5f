"""Questions answered by a span of a context: encoding in windows, best spans, SQuAD's scores."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.anatomy import Head
from tutelage.data.batches import Batch
from tutelage.data.config import DataConfig
from tutelage.data.examples import NO_TARGET, UNLABELLED, Data, Encoded, Examples, Windows
from tutelage.data.readers.squad import Answers, own_questions
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError, option
from tutelage.objectives import losses
from tutelage.objectives.losses import Count
from tutelage.tasks.kind import Kind
from tutelage.tasks.reply import Piece, Reply

LONGEST = 30
"""The most tokens of an answer."""


class Spans(Kind):
    """The span of a context that answers a question, or [CLS] for no answer. Labels are ``(n,)`` of tuples of right answers,
    ``None`` where unknown. The outputs are two scores of each token: that it starts, and that it ends the answer."""

    name = "spans"
    head: Head = "spans"
    pipeline = "question-answering"
    unit = "questions"
    own_columns = True
    named = False
    fixed_outputs = False
    answers_in_pair = True
    served_as = "span"

    def read(self, train: Path, dev: Path | None, config: DataConfig) -> Data:
        return own_questions(train, dev, config.skip_bad_rows)

    def longest(self, limit: int) -> int:
        """Windows are 384 tokens at most, as in SQuAD's usual settings."""
        return min(limit, 384)

    def encode(self, examples: Examples, tokenizer: Any, max_length: int, stride: int | None = None) -> Encoded:
        third = max_length // 3
        return encode_spans(examples, tokenizer, max_length, stride or min(128, third), min(64, third))

    def label_settings(self, data: Data) -> dict[str, Any]:
        """Two outputs, whatever classes the checkpoint had before."""
        return {"num_labels": 2, "problem_type": None}

    def about(self, data: Data) -> str:
        labels = data.train.labels
        without, unknown = (sum(label == one for label in labels) for one in ((), None))
        return f"{self.name}, {len(labels) - without - unknown:,} questions with an answer, {without:,} without one" + (
            f", {unknown:,} unknown" if unknown else ""
        )

    def match(self, data: Data, config: Any, name: str, role: str = "teacher") -> tuple[Data, list[str]]:
        return data, []

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        return [0, 1]

    def scores(self, data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
        examples = texts.examples
        unanswerable = any(answers == () for answers in examples.labels)
        return squad_scores(best_answers(logits, texts.student, examples, with_null=unanswerable), examples)

    def per_example(self, data: Data, logits: Tensor, texts: Texts) -> npt.NDArray[Any]:
        """F1 with the best of the right answers."""
        examples = texts.examples
        unanswerable = any(answers == () for answers in examples.labels)
        said = best_answers(logits, texts.student, examples, with_null=unanswerable)
        each = [_scores(text, _right(known))[0] for text, known in zip(said, examples.labels, strict=True)]
        return np.array(each)[:, None]

    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        return answer_chance(examples)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """``(2 * batch, tokens)``: the scores of all starts, then of all ends, among the tokens of each text."""
        assert batch.predicted is not None
        texts, width = batch.mask.shape
        return losses.by_text(logits, batch.predicted // width, texts, width).flatten(0, 1)

    def hard_loss(self, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
        return super().hard_loss(logits, labels.t().flatten(), count)

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        """The best span, whether or not its score is above that of no answer; both scores are in the note."""
        assert texts.examples.pairs is not None
        found = []
        chosen = _read(logits, texts.student, texts.examples, LONGEST)
        for context, start, stop, score, null in zip(
            texts.examples.pairs, *(one.tolist() for one in chosen), strict=True
        ):
            pieces = (Piece(context[:start]), Piece(context[start:stop], "answer"), Piece(context[stop:]))
            note = f"score {score:.1f}; that of no answer {null:.1f}"
            found.append(Reply(context[start:stop], pieces=tuple(one for one in pieces if one.text), note=note))
        return found

    def usage(self, model: str) -> str:
        return "\n".join(
            [
                "import torch",
                "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
                f"tokenizer = AutoTokenizer.from_pretrained({model})",
                f"model = AutoModelForQuestionAnswering.from_pretrained({model})",
                'inputs = tokenizer("A question?", "A context.", return_tensors="pt")',
                "with torch.no_grad():",
                "    output = model(**inputs)",
                "start, end = output.start_logits.argmax(), output.end_logits.argmax()",
                'print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))',
            ]
        )


def encode_spans(
    examples: Examples, tokenizer: Any, max_length: int = 384, stride: int = 128, max_question: int = 64
) -> Encoded:
    """Questions with their contexts in overlapping windows of at most ``max_length`` tokens, without padding.

    A row is [CLS] question [SEP] window [SEP], as the tokenizer writes it. Neighbouring windows share ``stride`` tokens
    of the context; a question loses its tokens beyond ``max_question`` (then ``cut`` is true for its rows). [CLS]
    and the tokens of the context are predicted. ``labels`` ``(rows, 2)`` are of a question's first answer, and 0 (at [CLS]) also
    where that is not wholly in the window.

    Raises:
        TutelageError: the tokenizer has no [CLS], or ``max_length`` leaves no room for windows that move on.
    """
    assert examples.pairs is not None
    if tokenizer.cls_token_id is None:
        raise TutelageError(
            f"{type(tokenizer).__name__} has no [CLS], which stands for no answer; use the model of a family that has it"
        )
    room = max_length - max_question - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise TutelageError(
            f"{option('max_length')} {max_length} leaves {room} tokens for the context beside max_question={max_question}, but "
            f"windows that share stride={stride} need more; raise max_length or lower stride"
        )
    has_types = "token_type_ids" in tokenizer.model_input_names
    tokens: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    types: list[npt.NDArray[np.int8]] = [np.empty(0, dtype=np.int8)]
    targets: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    chars: list[npt.NDArray[np.int32]] = [np.empty((0, 2), dtype=np.int32)]
    labels: list[tuple[int, int]] = []
    of: list[int] = []
    cut: list[bool] = []
    for begin in range(0, len(examples), 1024):
        questions, shortened = _questions_to(max_question, examples.texts[begin : begin + 1024], tokenizer)
        output = tokenizer(
            questions,
            list(examples.pairs[begin : begin + 1024]),
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            padding=False,
            return_overflowing_tokens=True,
            return_token_type_ids=False,
            return_attention_mask=False,
        )
        for encoding, place in zip(output.encodings, output["overflow_to_sample_mapping"], strict=True):
            # Of [CLS], the question and the separators the offsets are not those in the context.
            context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            offsets = np.where(context[:, None], np.array(encoding.offsets, dtype=np.int32), np.int32(-1))
            target = np.where(context, np.int32(UNLABELLED), np.int32(NO_TARGET))
            target[0] = UNLABELLED
            tokens.append(np.array(encoding.ids, dtype=np.int32))
            types.append(np.array(encoding.type_ids if has_types else [], dtype=np.int8))
            targets.append(target)
            chars.append(offsets)
            labels.append(_label(examples.labels[begin + place], offsets[context]))
            of.append(begin + place)
            cut.append(shortened[place])
    return Encoded(
        tokens=np.concatenate(tokens),
        types=np.concatenate(types) if has_types else None,
        offsets=np.cumsum([len(row) for row in tokens], dtype=np.int64),
        cut=np.array(cut, dtype=np.bool_),
        pad_token=int(tokenizer.pad_token_id),
        separator=-1 if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id),
        labels=np.array(labels, dtype=np.int64).reshape(-1, 2),
        targets=np.concatenate(targets),
        windows=Windows(of=np.array(of, dtype=np.int64), chars=np.concatenate(chars)),
    )


def _questions_to(limit: int, questions: Sequence[str], tokenizer: Any) -> tuple[list[str], list[bool]]:
    """The questions with at most ``limit`` tokens each, and which of them were cut."""
    output = tokenizer(list(questions), add_special_tokens=False, truncation=True, max_length=limit + 1)
    kept, cut = list(questions), [len(encoding.ids) > limit for encoding in output.encodings]
    for row in np.flatnonzero(cut):
        offsets = output.encodings[row].offsets
        # Cut where a token ends that ends a character: the tokens before it then stay the same. (The bytes of one
        # character share its place.)
        ends = [offsets[i][1] for i in range(limit) if offsets[i][1] <= offsets[i + 1][0]]
        kept[row] = kept[row][: max(ends, default=0)]
    return kept, cut


def _label(answers: Answers | None, chars: npt.NDArray[np.int32]) -> tuple[int, int]:
    """First and last token of the first answer among a window's tokens with these ``chars``, counted from 1.

    0 where the answer is not wholly in the window, -1 where it is unknown.
    """
    if answers is None:
        return -1, -1
    if not answers or not len(chars):
        return 0, 0
    start, text = answers[0]
    stop = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    if start < chars[0, 0] or stop > chars[-1, 1]:
        return 0, 0
    first = int(np.searchsorted(chars[:, 1], start, side="right")) + 1
    last = int(np.searchsorted(chars[:, 0], stop, side="left"))
    return (first, last) if first <= last else (0, 0)


_PUNCTUATION = str.maketrans("", "", string.punctuation)


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def best_answers(
    logits: Tensor | npt.NDArray[Any],
    encoded: Encoded,
    examples: Examples,
    *,
    with_null: bool,
    longest: int = LONGEST,
) -> list[str]:
    """The answer to each of ``examples``, cut out of its context.

    ``logits`` is ``(units, 2)``, the scores of being the first and the last token of the answer, for the tokens of
    ``encoded`` that are predicted, row by row. The answer is the pair of tokens with the highest sum of scores
    in any window, at most ``longest`` tokens long (of equal ones the first and shortest). ``with_null`` (SQuAD 2.0) it
    is empty where the sum at [CLS], the smallest over the windows, is above that.
    """
    assert examples.pairs is not None
    starts, stops, scores, nulls = _read(logits, encoded, examples, longest)
    refused = (nulls > scores) & with_null
    places = zip(examples.pairs, starts.tolist(), stops.tolist(), refused, strict=True)
    return ["" if no_answer else context[start:stop] for context, start, stop, no_answer in places]


def _read(
    logits: Tensor | npt.NDArray[Any], encoded: Encoded, examples: Examples, longest: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each example, ``(examples,)`` each: the first character of the best answer in its context and the one after its last,
    spaces around it left out; its score; and the score of no answer. Without tokens of the context the answer is empty."""
    assert encoded.windows is not None and encoded.targets is not None and examples.pairs is not None
    starts, ends = torch.as_tensor(logits).detach().to("cpu", torch.float64).numpy().T
    predicted = np.flatnonzero(encoded.targets != NO_TARGET)
    row = np.repeat(np.arange(len(encoded)), encoded.lengths)[predicted]
    of = encoded.windows.of[row]
    null = np.diff(row, prepend=-1) > 0  # a row's first unit is [CLS]
    units = len(row)
    # For each unit the best answer that starts there, over all pairs (not only of the n best starts and ends).
    best = np.full(units, -np.inf)
    last = np.arange(units)
    for ahead in range(min(longest, units)):
        here = units - ahead
        sums = starts[:here] + ends[ahead:]
        better = (row[:here] == row[ahead:]) & (sums > best[:here])
        best[:here][better] = sums[better]
        last[:here][better] = np.flatnonzero(better) + ahead
    nulls = np.full(len(examples), np.inf)
    np.minimum.at(nulls, of[null], (starts + ends)[null])
    firsts, stops = (np.zeros(len(examples), dtype=np.int64) for _ in range(2))
    scores = np.full(len(examples), -np.inf)
    context = np.flatnonzero(~null)
    order = context[np.lexsort((-best[context], of[context]))]
    winners = order[np.diff(of[order], prepend=-1) > 0]
    chars = encoded.windows.chars[predicted]
    for example, start, stop in zip(of[winners], chars[winners, 0], chars[last[winners], 1], strict=True):
        text = examples.pairs[example][start:stop]
        firsts[example] = start + len(text) - len(text.lstrip())
        stops[example] = firsts[example] + len(text.strip())
    scores[of[winners]] = best[winners]
    return firsts, stops, scores, nulls


def squad_scores(predictions: Sequence[str], examples: Examples) -> dict[str, float]:
    """SQuAD's ``f1`` and ``exact_match`` of the predicted texts, as fractions; ``examples`` are all labelled.

    Texts are compared in lower case without punctuation, articles and superfluous spaces; F1 is that of their words.
    Each question counts its best agreement with any of its answers. As in SQuAD 2.0 answers of which nothing remains
    do not count, and where there is no answer the empty text is right and any other wrong.
    """
    pairs = zip(predictions, examples.labels, strict=True)
    f1, exact = np.mean([_scores(text, _right(answers)) for text, answers in pairs], axis=0)
    return {"f1": float(f1), "exact_match": float(exact)}


def answer_chance(examples: Examples) -> dict[str, float]:
    """The scores that are had for nothing: those of the empty text for every question."""
    return squad_scores([""] * len(examples), examples)


def _right(answers: Sequence[tuple[int, str]]) -> list[list[str]]:
    """The words of each answer; of no answer, one without words."""
    return [words for _, text in answers if (words := _words(text))] or [[]]


def _scores(prediction: str, right: list[list[str]]) -> tuple[float, float]:
    """The highest F1 and exact match with one of the right answers."""
    words = _words(prediction)
    return max(_f1(words, answer) for answer in right), float(words in right)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    shared = (Counter(words) & Counter(answer)).total()
    return 2 * shared / (len(words) + len(answer))
