"""Texts rewritten by rules: how often, by which words, which n-grams, and that it is always the same."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from tutelage.data.augmentation.rules import (
    LONGEST,
    Lexicon,
    Rules,
    by_shape,
    by_textblob,
    default_tagger,
    rule_variants,
)
from tutelage.data.examples import Examples
from tutelage.errors import TutelageError

LENGTH = 60


def by_initial(words: list[str]) -> list[str]:
    return [word[0] for word in words]


def invented(count: int, length: int = LENGTH, seed: int = 0) -> Examples:
    """Texts of words ``a0`` to ``d99``; the letter is the part of speech."""
    generator = np.random.default_rng(seed)
    texts = [
        " ".join(f"{letter}{number}" for letter, number in zip(*words, strict=True))
        for words in zip(
            generator.choice(list("abcd"), (count, length)), generator.integers(100, size=(count, length)), strict=True
        )
    ]
    return Examples([f"train/{i}" for i in range(count)], texts, None, np.zeros(count, dtype=np.int64))


def rewritten(examples: Examples, rules: Rules, seed: int = 0, tagger=by_initial):
    return rule_variants(examples, Lexicon([*examples.texts, *(examples.pairs or ())], tagger), rules, seed)


def in_order(part: list[str], whole: list[str]) -> list[int]:
    """Where ``part`` stands in ``whole`` as a run."""
    return [i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part]


def test_words_are_masked_and_swapped_as_often_as_said() -> None:
    examples = invented(80)
    new, rows = rewritten(examples, Rules(p_ngram=0))
    assert len(new) == 80 * 20
    masked = swapped = same = 0
    for text, row in zip(new.texts, rows, strict=True):
        for before, after in zip(examples.texts[row].split(" "), text.split(" "), strict=True):
            masked += after == "[MASK]"
            if after not in ("[MASK]", before):
                swapped += 1
                same += after[0] == before[0]
    words = len(new) * LENGTH
    assert same == swapped  # the part of speech stays
    assert abs(masked / words - 0.1) < 3 * np.sqrt(0.1 * 0.9 / words)
    # A word is swapped with itself as often as it is found among its like.
    counts = Counter(" ".join(examples.texts).split())
    likes = Counter(word[0] for word in counts.elements())
    chance = 0.1 * (1 - sum(c * c / likes[word[0]] for word, c in counts.items()) / counts.total())
    assert abs(swapped / words - chance) < 3 * np.sqrt(chance * (1 - chance) / words)


def test_frequent_words_are_drawn_more_often() -> None:
    texts = ["a1 " * 60, "a2 " * 30, "a3 " * 10]
    examples = Examples(["train/0"], [("b7 a0 " * 100).strip()], None, np.zeros(1, dtype=np.int64))
    lexicon = Lexicon(texts, by_initial)
    new, _ = rule_variants(examples, lexicon, Rules(p_mask=0, p_pos=0.5, p_ngram=0, iterations=40), 0)
    counts = Counter(" ".join(new.texts).split())
    drawn = np.array([counts["a1"], counts["a2"], counts["a3"]])
    expected = drawn.sum() * np.array([0.6, 0.3, 0.1])
    assert drawn.sum() > 1500 and ((drawn - expected) ** 2 / expected).sum() < 13.8  # p = 0.001
    assert counts["b7"] == 40 * 100  # the lexicon has no word of its kind


def test_ngrams() -> None:
    """A quarter of the texts; 1 to 5 words in a row, each length and each start as often as another."""
    length = 8
    texts = [" ".join(f"w{row}x{word}" for word in range(length)) for row in range(400)]
    examples = Examples([f"train/{i}" for i in range(400)], texts, None, np.zeros(400, dtype=np.int64))
    new, rows = rewritten(examples, Rules(p_mask=0, p_pos=0, iterations=1))
    share = len(new) / 400  # one that is kept whole is a duplicate of the original
    assert abs(share - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 400)
    new, rows = rewritten(examples, Rules(p_mask=0, p_pos=0, p_ngram=1, iterations=1))
    assert len(new) == 400
    sizes, starts = Counter(), Counter()
    for text, row in zip(new.texts, rows, strict=True):
        (start,) = in_order(text.split(" "), texts[row].split(" "))
        sizes[len(text.split(" "))] += 1
        starts[len(text.split(" ")), start] += 1
    assert set(sizes) == set(range(1, LONGEST + 1))
    assert sum((sizes[n] - 80) ** 2 / 80 for n in sizes) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001
    assert all(starts[n, length - n] and starts[n, 0] for n in sizes)  # the first and the last n-gram are among them


def test_ngrams_of_short_texts() -> None:
    examples = Examples(["train/0", "train/1", "train/2"], ["one", "two words", ""], None, np.zeros(3, dtype=np.int64))
    new, rows = rewritten(examples, Rules(p_mask=0, p_pos=0, p_ngram=1, iterations=30))
    assert sorted(new.texts) == ["two", "words"] and set(rows.tolist()) == {1}


def test_no_duplicates_and_no_text_without_a_word_of_its_own() -> None:
    texts = ["a1", "a1 a2", "a2 a1", "a1 a2 a3", "b1"] * 4
    examples = Examples([f"train/{i}" for i in range(20)], texts, None, np.zeros(20, dtype=np.int64))
    new, rows = rewritten(examples, Rules(p_mask=0.4, p_pos=0.4, iterations=40))
    assert len(new) > 5 and len(set(new.texts)) == len(new.texts) and not set(new.texts) & set(texts)
    assert len(set(new.ids)) == len(new.ids)
    for text in new.texts:
        assert set(text.split()) != {"[MASK]"}
    # With swaps to words that no text has, a word of the original's must be left.
    lexicon = Lexicon(["a7 b7"], by_initial)
    new, rows = rule_variants(examples, lexicon, Rules(p_mask=0.4, p_pos=0.4, iterations=40), 0)
    assert len(new) > 5
    for text, row in zip(new.texts, rows, strict=True):
        assert set(text.split()) & set(texts[row].split())
    assert len(rule_variants(examples, lexicon, Rules(p_mask=0.5, p_pos=0.5), 0)[0]) == 0


def test_of_a_pair_first_then_second_then_both() -> None:
    first, second = invented(30, seed=1), invented(30, seed=2)
    examples = replace(first, pairs=second.texts)
    new, rows = rewritten(examples, Rules(iterations=9, p_ngram=0))
    assert len(new) == 30 * 9
    for name, text, pair, row in zip(new.ids, new.texts, new.pairs, rows, strict=True):
        turn = int(name.rpartition("~r")[2]) % 3
        assert name.startswith(f"train/{row}~r")
        assert (text != examples.texts[row], pair != examples.pairs[row]) == (
            (True, False),
            (False, True),
            (True, True),
        )[turn]


def test_same_for_one_and_four_workers() -> None:
    examples = replace(invented(40, length=4), pairs=invented(40, length=3, seed=1).texts)
    lexicon, rules = Lexicon([*examples.texts, *examples.pairs], by_initial), Rules()
    whole, rows = rule_variants(examples, lexicon, rules, 5)
    seen = set(zip(examples.texts, examples.pairs, strict=True))
    merged = []
    for part in np.array_split(np.arange(40), 4):
        new, of = rule_variants(examples.take(part), lexicon, rules, 5)
        for entry in zip(new.ids, new.texts, new.pairs, part[of], strict=True):
            if entry[1:3] not in seen:
                seen.add(entry[1:3])
                merged.append(entry)
    assert merged == list(zip(whole.ids, whole.texts, whole.pairs, rows, strict=True))
    few, _ = rule_variants(examples, lexicon, Rules(iterations=5), 5)
    texts = dict(zip(whole.ids, whole.texts, strict=True))
    assert len(few) > 40 and all(
        texts[name] == text for name, text in zip(few.ids, few.texts, strict=True) if name in texts
    )
    other, _ = rule_variants(examples, lexicon, rules, 6)
    assert other.texts != whole.texts
    backwards = Lexicon([*examples.pairs[::-1], *examples.texts[::-1]], by_initial)
    assert rule_variants(examples, backwards, rules, 5)[0].texts == whole.texts


def test_spaces_and_the_mask_token() -> None:
    text = "He said:\t\"don't  go\"  -- it's late"
    examples = Examples(["train/0"], [text], None, np.zeros(1, dtype=np.int64))
    seen = []
    lexicon = Lexicon([text], lambda words: seen.append(words) or [str(i) for i in range(len(words))])
    assert seen == [["He", "said", ":", '"', "don't", "go", '"', "-", "-", "it's", "late"]]
    new, _ = rule_variants(examples, lexicon, Rules(p_mask=0.5, p_pos=0, p_ngram=0, mask_token="<mask>"), 0)
    for other in new.texts:
        assert other.count("<mask>") > 0
        position = 0
        for gap in other.split("<mask>"):  # what is left stands in the original, in that order
            position = text.index(gap, position) + len(gap)


def test_what_comes_out_has_no_label() -> None:
    examples = invented(3)
    for labels, empty in [
        (np.array([2, 0, 1]), -1),
        (np.array([2.5, 0, 1], dtype=np.float32), np.nan),
        (np.ones((3, 4), dtype=np.float32), np.nan),
    ]:
        new, _ = rewritten(replace(examples, labels=labels), Rules(iterations=2))
        assert new.labels.dtype == labels.dtype and new.labels.shape == (6, *labels.shape[1:])
        assert np.array_equal(new.labels, np.full_like(new.labels, empty), equal_nan=True) and not new.labelled.any()
    tags = np.empty(3, dtype=object)
    with pytest.raises(TutelageError, match="labels belong to words"):
        rewritten(replace(examples, labels=tags), Rules())


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="at most 1"):
        Rules(p_mask=0.6, p_pos=0.6)
    with pytest.raises(ValidationError):
        Rules(p_mode=0.1)
    with pytest.raises(TutelageError, match="1 tags for 2 words"):
        Lexicon(["two words"], lambda words: ["NN"])


def check(tagger, tagged: str) -> None:
    words, tags = zip(*(entry.rsplit("/", 1) for entry in tagged.split()), strict=True)
    assert tagger(list(words)) == list(tags)


def test_tags_by_shape() -> None:
    check(
        by_shape,
        "The/DT teacher/NN ’s/BE engines/NNS quickly/RB crossed/VBD 12/CD famous/JJ rivers/NNS of/IN Norway/NNP ,/, "
        "they/PRP were/BE crossing/VBG ?/?",
    )
    assert by_shape([]) == []


def test_default_tagger() -> None:
    assert default_tagger() is (by_textblob if importlib.util.find_spec("textblob") else by_shape)
    if importlib.util.find_spec("textblob"):
        check(by_textblob, "The/DT teacher/NN crossed/VBD 12/CD famous/JJ rivers/NNS quickly/RB ./.")
    else:
        with pytest.raises(TutelageError, match="pip install textblob"):
            by_textblob(["word"])
