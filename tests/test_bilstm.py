"""The BiLSTM against the paper's equations word by word, and its tokenizer against counting."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, sentences
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Tap
from tutelage.students import bilstm
from tutelage.students.bilstm import SPECIAL, BiLSTMConfig, BiLSTMForSequenceClassification, new_bilstm, word_tokenizer

TEXTS = sentences(60, 0)[0]
NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
FIRST = ["word1 good word2 bad word3 word4 word5", "", "weak", "word7 word8", "never seen before"]
SECOND = ["poor", "fine", "word1 good word2 bad word3 word4 word5 word6 word7", "", "word7 word8"]


@pytest.fixture(scope="module")
def words():
    return word_tokenizer(TEXTS, 30, 64)


def small(words, pairs: bool = False, channels: int = 2, seed: int = 0, **more) -> BiLSTMForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden": 6, "intermediate": 7, "embedding": 5, **more}
    return new_bilstm(words, NAMED, pairs=pairs, channels=channels, **sizes)


def inputs_for(words, pairs: bool, **more) -> dict[str, Tensor]:
    return dict(words(FIRST, SECOND if pairs else None, **{"padding": True, "return_tensors": "pt", **more}))


def logits_of(model, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


# ------------------------------------------------------------------------------------------------------- the network


def slow_last_state(lstm: nn.LSTM, words: list[Tensor]) -> Tensor:
    h = c = torch.zeros(lstm.hidden_size)
    for x in words:
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def slow_sentence(model: BiLSTMForSequenceClassification, ids: list[int]) -> Tensor:
    tables = [t.weight for t in (model.frozen_embeddings, model.embeddings) if t is not None]
    words = [torch.cat([table[i] for table in tables]) for i in ids]
    return torch.cat([slow_last_state(model.forwards, words), slow_last_state(model.backwards, words[::-1])])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_forward_pass_is_the_papers(words, pairs: bool, channels: int) -> None:
    model = small(words, pairs, channels, hidden=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.5 if "embeddings" in name else 1.0)
            if name == "frozen_embeddings.weight":
                parameter.add_(0.1)  # else the channels could be exchanged
        expected = []
        for first, second in zip(FIRST, SECOND, strict=True):
            features = slow_sentence(model, words(first)["input_ids"])
            if pairs:
                u, v = features, slow_sentence(model, words(second)["input_ids"])
                features = torch.cat([u, v, (u - v).abs(), u * v])
            expected.append(model.classifier(model.dense(features).clamp(min=0)))
    ours = logits_of(model, inputs_for(words, pairs))
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-6, rtol=0)
    assert ours.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("pairs", [False, True])
def test_padding_changes_nothing(words, pairs: bool) -> None:
    model, inputs = small(words, pairs), inputs_for(words, pairs)
    logits = logits_of(model, inputs)
    further = inputs_for(words, pairs, padding="max_length", max_length=40)
    assert torch.equal(logits_of(model, further), logits)
    other = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 9)}
    assert torch.equal(logits_of(model, other), logits)
    left = inputs_for(words, pairs, padding_side="left")
    assert left["attention_mask"][:, -1].all() and not left["attention_mask"][:, 0].all()
    torch.testing.assert_close(logits_of(model, left), logits, atol=1e-6, rtol=0)
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        torch.testing.assert_close(logits_of(model, alone)[0], logits[row], atol=1e-6, rtol=0)
        del alone["attention_mask"]
        torch.testing.assert_close(logits_of(model, alone)[0], logits[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("pairs", [False, True])
def test_it_reads_no_further_than_the_longest_sentence(words, pairs: bool) -> None:
    model, widths = small(words, pairs), []
    for lstm in (model.forwards, model.backwards):
        lstm.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    logits_of(model, inputs_for(words, pairs, padding="max_length", max_length=40))
    longest = max(len(words(text)["input_ids"]) for text in (FIRST + SECOND if pairs else FIRST))
    assert widths == [longest, longest]


@pytest.mark.parametrize("pairs", [False, True])
def test_permuting_the_batch_permutes_the_logits(words, pairs: bool) -> None:
    model, inputs = small(words, pairs), inputs_for(words, pairs)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = logits_of(model, {name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(permuted, logits_of(model, inputs)[order], atol=1e-6, rtol=0)
    assert not torch.allclose(permuted, logits_of(model, inputs), atol=1e-3)


def test_swapping_the_sentences_swaps_the_first_two_blocks(words) -> None:
    model, seen = small(words, pairs=True), []
    model.dense.register_forward_pre_hook(lambda module, args: seen.append(args[0].chunk(4, dim=-1)))
    for first, second in ((FIRST, SECOND), (SECOND, FIRST)):
        logits_of(model, dict(words(first, second, padding=True, return_tensors="pt")))
    (u, v, difference, product), swapped = seen
    for ours, theirs in zip((v, u, difference, product), swapped, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert not torch.allclose(u, v, atol=1e-2)
    torch.testing.assert_close(difference, (u - v).abs(), rtol=0, atol=0)
    torch.testing.assert_close(product, u * v, rtol=0, atol=0)


def test_a_sentence_without_tokens_is_zero(words) -> None:
    model, seen = small(words, pairs=True), []
    model.dense.register_forward_pre_hook(lambda module, args: seen.append(args[0].chunk(4, dim=-1)))
    logits_of(model, dict(words(["good", ""], padding=True, return_tensors="pt")))
    u, v, _, _ = seen[0]
    assert u.abs().max() > 1e-3 and not v.any()
    nothing = torch.zeros(2, 3, dtype=torch.long)
    logits = logits_of(small(words), {"input_ids": nothing, "attention_mask": nothing})
    assert torch.equal(logits[0], logits[1]) and logits.isfinite().all()


def test_pairs_need_token_types(words) -> None:
    inputs = inputs_for(words, True)
    del inputs["token_type_ids"]
    with pytest.raises(TutelageError, match="needs token_type_ids"):
        small(words, pairs=True)(**inputs)


@pytest.mark.parametrize(
    ("hidden", "intermediate", "pairs", "expected"),
    [(150, 200, False, 963_002), (300, 400, False, 2_406_002), (300, 400, True, 3_126_002)],
)
def test_parameters_without_embeddings(hidden: int, intermediate: int, pairs: bool, expected: int) -> None:
    with torch.device("meta"):
        sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "pairs": pairs, "vocab_size": 1000}
        model = BiLSTMForSequenceClassification(BiLSTMConfig(**sizes))
    assert (model.config.embedding_size, model.config.channels) == (300, 2)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(count for name, count in counts.items() if "embeddings" not in name) == expected
    assert sum(count for name, count in counts.items() if "embeddings" in name) == 2 * 1000 * 300


def test_dropout_is_where_the_authors_have_it(words) -> None:
    torch.manual_seed(0)
    for pairs in (False, True):
        model, inputs = small(words, pairs, intermediate=200).train(), inputs_for(words, pairs)
        same = torch.equal(logits_of(model, inputs), logits_of(model, inputs))
        assert same == pairs
    seen = []
    model = small(words, intermediate=1000).train()
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.dense.register_forward_hook(lambda module, args, output: output.abs() + 1)
    logits_of(model, inputs_for(words, False))
    assert float((seen[0] == 0).float().mean()) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 1, 1, 0, 1], "single_label_classification"),
        ([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "multi_label_classification"),
    ],
)
def test_labels_give_the_loss(words, labels: list, problem: str) -> None:
    model, targets = small(words), torch.tensor(labels)
    model.config.problem_type = problem
    output = model(**inputs_for(words, False), labels=targets)
    loss = F.cross_entropy if problem.startswith("single") else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(output.loss, loss(output.logits, targets))


# ---------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("pairs", [False, True])
def test_every_part_learns_but_the_frozen_channel(words, pairs: bool, tmp_path: Path) -> None:
    small(words, pairs).save_pretrained(tmp_path)
    new, again = small(words, pairs), AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for model in (new, again, again.requires_grad_(True)):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
        inputs = inputs_for(words, pairs)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model.train()(**inputs).logits, torch.tensor([0, 1, 1, 0, 1])).backward()
            optimizer.step()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) == (name == "frozen_embeddings.weight"), name
        gradient = model.embeddings.weight.grad
        read = torch.zeros(len(words), dtype=torch.bool)
        read[inputs["input_ids"][inputs["attention_mask"].bool()]] = True
        assert torch.equal(gradient.abs().sum(dim=1) > 0, read)
    assert not new.frozen_embeddings.weight.requires_grad


def test_gradients_are_those_of_finite_differences(words) -> None:
    model, inputs = small(words, pairs=True, hidden=3, embedding=2).double(), inputs_for(words, True)
    names = ["embeddings.weight", "backwards.weight_hh_l0", "dense.weight"]

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), kwargs=inputs).logits.sum()

    values = tuple(model.get_parameter(name).detach().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_it_learns_the_toy_task(words) -> None:
    texts, labels = sentences(200, 1)
    tokenizer = word_tokenizer(texts, 100, 64)
    model = small(tokenizer, hidden=16, intermediate=16, embedding=16).train()
    inputs, targets = dict(tokenizer(texts, padding=True, return_tensors="pt")), torch.tensor(labels)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(**inputs).logits, targets).backward()
        optimizer.step()
    texts, labels = sentences(100, 2)
    logits = logits_of(model.eval(), dict(tokenizer(texts, padding=True, return_tensors="pt")))
    assert (logits.argmax(-1) == torch.tensor(labels)).float().mean() > 0.9


def test_a_tap_reads_its_logits(words) -> None:
    model, inputs = small(words), inputs_for(words, False)
    tap = Tap(model, Needs(logits=True))
    assert torch.equal(tap(inputs).logits, model(**inputs).logits)
    tap.close()
    assert model.get_input_embeddings() is model.embeddings and model.get_output_embeddings() is None


# ---------------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("channels", [1, 2])
def test_a_saved_student_is_the_same_to_the_bit(words, channels: int, tmp_path: Path) -> None:
    model = small(words, channels=channels)
    with torch.no_grad():  # as after training: the channels have parted
        model.embeddings.weight.add_(0.01)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(again) is BiLSTMForSequenceClassification and not again.training
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    inputs = dict(AutoTokenizer.from_pretrained(tmp_path)(FIRST, padding=True, return_tensors="pt"))
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs_for(words, False)))
    assert again.config.id2label == dict(enumerate(LABELS))
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    three = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert logits_of(three, inputs).shape == (5, 3)
    assert 0.01 < float(three.classifier.weight.detach().std()) < 1
    assert torch.equal(three.backwards.weight_hh_l0, model.backwards.weight_hh_l0)


@pytest.mark.parametrize("pairs", [pytest.param(False, marks=pytest.mark.slow), True])
def test_onnx_gives_what_pytorch_gives(words, pairs: bool, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = small(words, pairs)
    example = dict(words(["word1 good", "bad"], ["fine", "poor"] if pairs else None, padding=True, return_tensors="pt"))
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
    path = tmp_path / "student.onnx"
    torch.onnx.export(model, (), path, kwargs=example, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert operators["LSTM"] == 1 and not operators["Loop"]
    session = onnxruntime.InferenceSession(path)
    whole = inputs_for(words, pairs, padding="max_length", max_length=30)
    one = {name: value[1:2, :2] for name, value in inputs_for(words, pairs).items()}
    left = inputs_for(words, pairs, padding_side="left")
    lonely = inputs_for(words, False)  # to a model for pairs, the second sentence has no tokens
    for inputs in (example, inputs_for(words, pairs), whole, one, left, lonely):
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
        np.testing.assert_allclose(found, logits_of(model, inputs).numpy(), atol=1e-5)


@pytest.mark.parametrize("cpu", ["this", "without bfloat16"])
def test_bf16_is_close(words, cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs that compute no LSTM in bfloat16, too: there it stays in float32."""
    if cpu != "this":
        monkeypatch.setattr(bilstm, "_half_is_known", lambda: False)
    model, inputs = small(words, pairs=True), inputs_for(words, True)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs).logits.sum().backward()
        logits = logits_of(model, inputs)
    torch.testing.assert_close(logits.float(), logits_of(model, inputs), atol=0.02, rtol=0)
    assert model.embeddings.weight.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"channels": 3}, {"hidden_size": "large"}])
def test_wrong_sizes_are_no_configuration(wrong: dict) -> None:
    with pytest.raises(Exception, match=f"field '{next(iter(wrong))}'"):
        BiLSTMConfig(**wrong)


# ------------------------------------------------------------------------------------------------------ word vectors


def test_known_words_have_their_vectors_in_both_channels(words) -> None:
    generator = np.random.default_rng(0)
    known = ["good", "bad", "word1", "word2", "elsewhere"]
    array = generator.normal(scale=3.0, size=(5, 50))
    models = [small(words, embedding=50, vectors=v) for v in ((known, array), dict(zip(known, array, strict=True)))]
    vocabulary = words.get_vocab()
    rows = [vocabulary[word] for word in known[:4]]
    unknown = [row for row in range(len(words)) if row not in rows]
    for model in models:
        table = model.embeddings.weight.detach()
        assert torch.equal(table[rows], torch.from_numpy(array[:4]).float())
        assert float(table[unknown].std()) == pytest.approx(array[:4].std(), rel=0.1)
        assert abs(float(table[unknown].mean())) < 0.3
        assert torch.equal(model.frozen_embeddings.weight, table)
        assert model.frozen_embeddings.weight.data_ptr() != table.data_ptr()
    assert torch.equal(models[0].embeddings.weight, models[1].embeddings.weight)
    assert not torch.equal(small(words, embedding=50, vectors=(known, array), seed=1).embeddings.weight, table)


def test_without_vectors_words_are_random(words) -> None:
    model = small(words, embedding=100)
    assert float(model.embeddings.weight.detach().std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(model.embeddings.weight, model.frozen_embeddings.weight)
    assert small(words, channels=1).frozen_embeddings is None
    with torch.device("meta"):
        outline = small(words, vectors={"good": np.ones(5)})
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"good": [1.0, 2.0]}, r"has the shape \(2,\), but the student has embedding=5; set embedding"),
        ({"good": [1.0] * 5, "bad": [1.0] * 6}, r"has the shape \(6,\), but the student has embedding=5"),
        ((["good", "bad"], np.ones((2, 4))), r"has the shape \(4,\), but the student has embedding=5"),
        ((["good", "bad"], np.ones((3, 5))), r"shape \(3, 5\) do not match 2 words"),
        ({"Good": [1.0] * 5}, "none of the tokenizer's 34 words has a word vector"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(words, vectors, message: str) -> None:
    with pytest.raises(TutelageError, match=message) as caught:
        small(words, vectors=vectors)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- tokenizer

SOME = ["The cat, the CAT; a dog!", "Café [MASK] cafe [MASK]", "b a don't mask", "", "b\tzebra  apple [SEP] [UNK]"]
WORDS = "the cat , the cat ; a dog ! cafe cafe b a don ' t mask b zebra apple"


def test_the_vocabulary_is_the_most_frequent_words() -> None:
    counts = Counter(WORDS.split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    for size in (0, 4, 9, 100):
        vocabulary = word_tokenizer(iter(SOME), size, 16).get_vocab()
        assert sorted(vocabulary, key=vocabulary.__getitem__) == [*SPECIAL, "[MASK]", *ranked[:size]]
    assert counts["a"] == counts["b"]  # there are ties
    again = word_tokenizer(reversed(SOME), 9, 16)
    assert again.get_vocab() == word_tokenizer(SOME, 9, 16).get_vocab()


def test_a_teachers_mask_token_is_one_entry() -> None:
    tokenizer = word_tokenizer([*SOME, "a <mask> b"], 100, 16, "<mask>")
    assert tokenizer.mask_token == "<mask>" and "mask" not in word_tokenizer(["<mask>"], 9, 16, "<mask>").get_vocab()
    assert tokenizer("a <mask>")["input_ids"][1] == tokenizer.mask_token_id


def test_words_become_their_entries(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(SOME, 100, 16)
    tokenizer.save_pretrained(tmp_path)
    for tok in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert (tok.pad_token_id, tok.unk_token_id, tok.sep_token_id, tok.mask_token_id) == (0, 1, 2, 3)
        assert (tok.model_max_length, tok.padding_side) == (16, "right")
        assert list(tok.model_input_names) == ["input_ids", "token_type_ids", "attention_mask"]
        single = "A CAFÉ, the [MASK] [MASK]ed mask [UNK] giraffe"
        expected = ["a", "cafe", ",", "the", "[MASK]", "[MASK]", "[UNK]", "mask", "[UNK]", "[UNK]", "[SEP]"]
        assert tok.convert_ids_to_tokens(tok(single)["input_ids"]) == expected
        assert tok(single)["input_ids"].count(3) == 2
        assert tok("")["input_ids"] == [2] and tok("   ")["input_ids"] == [2]
        pair = tok("a dog", "the zebra!", return_token_type_ids=True)
        assert tok.convert_ids_to_tokens(pair["input_ids"]) == ["a", "dog", "[SEP]", "the", "zebra", "!", "[SEP]"]
        assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 1, 1]
        assert tok([""], [""])["token_type_ids"] == [[0, 1]]
        batch = tok(["a dog", "b"], ["the zebra!", ""], padding=True)
        assert batch["attention_mask"] == [[1] * 7, [1] * 3 + [0] * 4]
        assert batch["token_type_ids"][1] == [0, 0, 1, 0, 0, 0, 0] and batch["input_ids"][1][3:] == [0] * 4
        long = tok("a " * 50, "b " * 50, truncation=True)
        assert len(long["input_ids"]) == 16 and long["input_ids"].count(2) == 2
        assert len(tok("a " * 50, truncation=True)["input_ids"]) == 16
        assert tok.decode(tok("a dog")["input_ids"], skip_special_tokens=True) == "a dog"


@pytest.mark.parametrize("pairs", [False, True])
def test_only_pairs_are_given_token_types(words, pairs: bool) -> None:
    fitted = fitted_tokenizer(words, small(words, pairs))
    assert ("token_type_ids" in fitted("good", "bad")) == pairs
