"""Answer texts with the model in this folder, without torch and transformers: one line of JSON for each text.

    python serve.py "A text." "Another text."
    python serve.py < lines_of_text.txt
    python serve.py model.onnx "A text."
    python serve.py -- "-3 degrees"

Two texts (a pair, or a question and its context) have a tab between them. A text without an answer gives ``{"error": ...}``, and in
the end the exit code 1. Where ``tutelage cascade`` has written a ``cascade.json``
beside the model, texts of which it is not sure enough give ``{"ask": "teacher", ...}``. pip install onnxruntime tokenizers numpy
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer


class Model:
    """A model of ``tutelage export``: its graph says what the outputs mean, ``tokenizer.json`` lies beside it.

    Raises:
        ValueError: the ``cascade.json`` beside it was chosen for another file.
    """

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["tutelage"])
        self.tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
        beside = path.with_name("cascade.json")
        self.cascade = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
        if self.cascade and self.cascade["fingerprint"] != hashlib.sha256(path.read_bytes()).hexdigest():
            raise ValueError(
                f"{beside} was chosen for another file than {path.name}; remove it, and run tutelage cascade again for a new one"
            )
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if self.about["answer"] == "span":  # a long context is read in windows, of a long question the beginning
            self.questions = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
            self.questions.no_truncation()
            third = self.about["max_length"] // 3
            self.tokenizer.enable_truncation(self.about["max_length"], stride=min(128, third), strategy="only_second")
        elif self.about["max_length"] is not None:
            self.tokenizer.enable_truncation(self.about["max_length"])

    def encodings(self, text: str, pair: str | None = None) -> list[Encoding]:
        """The tokens of a text; of a question and its context, in windows."""
        if self.about["answer"] == "tags":
            return [self.tokenizer.encode([f" {word}" for word in text.split()], is_pretokenized=True)]
        if self.about["answer"] == "span":
            tokens = self.questions.encode(text, add_special_tokens=False).offsets
            text = text[: tokens[: min(64, self.about["max_length"] // 3)][-1][1]] if tokens else text
        first = self.tokenizer.encode(text, pair)
        return [first, *first.overflowing] if self.about["answer"] == "span" else [first]

    def outputs(self, encoding: Encoding) -> list[Any]:
        """The outputs of the graph for one text alone: an int8 model's depend a little on the other texts of a batch."""
        ids = encoding.ids or [self.about["pad_token"]]
        given = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": encoding.type_ids or [0]}
        feed = {one.name: np.array([given[one.name]], dtype=np.int64) for one in self.session.get_inputs()}
        return [output[0] for output in self.session.run(None, feed)]

    def answer(self, text: str, pair: str | None = None) -> dict[str, Any]:
        """The answer to a text, or to a pair of texts."""
        form, labels, heat = self.about["answer"], self.about["labels"], self.about["temperature"]
        if any("\ud800" <= character <= "\udfff" for character in text + (pair or "")):
            return {"error": "the text is not UTF-8"}
        if "\t" in (pair or ""):
            return {"error": "more than two texts; give one tab at most"}
        if form == "span" and not (pair or "").strip():
            return {"error": "a question needs its context, after a tab"}
        encodings = self.encodings(text, pair)
        if form == "span":
            found = [self.span(one, str(pair)) for one in encodings]
            # No answer at all is as likely as in the window that is least sure of it.
            no_answer = min(one["no_answer"] for one in found)
            return {**max(found, key=lambda one: one["score"]), "no_answer": no_answer}
        values = self.outputs(encodings[0])[0]
        if form == "vector":
            return {"vector": [float(f"{value:.7g}") for value in values]}
        if form == "number":
            return {"score": _rounded(values[0])}
        if form == "classes":
            shares = 1 / (1 + np.exp(-values / heat))
            return {"labels": {labels[i]: round(float(shares[i]), 4) for i in np.flatnonzero(values > 0)}}
        scaled = values.astype(np.float64) / heat
        shares = np.exp(scaled - scaled.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        if form == "class":
            best, score = int(shares.argmax()), round(float(shares.max()), 4)
            if self.is_sure(best, float(shares.max())):
                return {"label": labels[best], "score": score}
            return {"ask": "teacher", "student": labels[best], "score": score}
        words = text.split()
        place: dict[int, int] = {}
        for token, word in enumerate(encodings[0].word_ids):
            if word is not None:
                place.setdefault(word, token)  # the first piece of a word answers for it
        tags = [(words[word], shares[token]) for word, token in place.items()]
        return {
            "tags": [{"word": w, "label": labels[int(p.argmax())], "score": round(float(p.max()), 4)} for w, p in tags]
        }

    def is_sure(self, best: int, share: float) -> bool:
        """Whether the model may answer by the cascade beside it, if there is one."""
        if self.cascade is None:
            return True
        rule = self.cascade["rule"] or self.cascade["classes"].get(self.cascade["labels"][best])
        return bool(rule and rule["threshold"] is not None and share > rule["threshold"])

    def span(self, encoding: Encoding, context: str) -> dict[str, Any]:
        """The best span of at most 30 tokens of one window of the context."""
        starts, ends = self.outputs(encoding)
        inside = np.array([sequence == 1 for sequence in encoding.sequence_ids])
        sums = np.where(inside[:, None] & inside, starts[:, None] + ends, -np.inf)
        sums = np.where(np.triu(np.ones_like(sums)) * np.tril(np.ones_like(sums), 29) > 0, sums, -np.inf)
        first, last = np.unravel_index(sums.argmax(), sums.shape)
        begin, end = encoding.offsets[first][0], encoding.offsets[last][1]
        no_answer = _rounded(starts[0] + ends[0])  # the scores at the first token stand for no answer
        return {
            "answer": context[begin:end],
            "start": begin,
            "end": end,
            "score": _rounded(sums.max()),
            "no_answer": no_answer,
        }


def _rounded(value: Any) -> float:
    return float(f"{value:.6g}")


def texts(given: list[str]) -> Iterator[tuple[str, str | None]]:
    """The texts of the command line, or the lines of stdin; what follows a tab is the second text."""
    for line in given or sys.stdin:
        text, tab, pair = line.rstrip("\r\n").partition("\t")
        yield text, pair if tab else None


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", help="a text; without any, each line of stdin is one")
    folder, words = Path(__file__).parent, parser.parse_args().text
    files = [words.pop(0)] if words and words[0].endswith(".onnx") else ["model.int8.onnx", "model.onnx"]
    path = next((folder / name for name in files if (folder / name).exists()), None)
    if path is None:
        sys.exit(f"{folder} holds no {' and no '.join(files)}")
    try:
        model = Model(path)
    except ValueError as error:
        sys.exit(str(error))
    failed = False
    for text, pair in texts(words):
        reply = model.answer(text, pair)
        failed = failed or "error" in reply
        print(json.dumps(reply, ensure_ascii=False), flush=True)
    sys.exit(int(failed))
