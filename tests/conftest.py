"""Tiny random models of every family, a tokenizer and data that say the same thing in every test."""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# One thread, unless it is asked for more: tiny matrices are slower on more. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from filelock import FileLock
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizerFast, GPT2TokenizerFast

from tutelage.anatomy import FAMILIES
from tutelage.data.examples import Data, Examples
from tutelage.evaluation import intervals, speed
from tutelage.run import served, trials
from tutelage.serving import timing
from tutelage.training import loop

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# The log has a line for each epoch and no other: how many there are must not depend on how busy the machine is.
loop.LOG_SECONDS = 1e9
# What a run measures of time is looked at in test_speed alone.
speed.REPEATS = speed.WARM_UP = 1
# A report must not depend on how busy the machine is.
speed.BUSY = 0.0
# Intervals are looked at in test_report and test_serving.
intervals.RESAMPLES = 40
# Which start or rate wins is looked at in test_trials; elsewhere trials take as few steps as they may.
trials.FEWEST = 2
timing.SECONDS = 0.0
# Writing three models as ONNX takes longer than training them; test_served does it.
served.missing = lambda: ["onnx, for tests"]
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

GOOD = ["good", "great", "fine", "lovely", "superb"]
BAD = ["bad", "poor", "awful", "dull", "weak"]
FILL = [f"word{i}" for i in range(30)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILL]
LABELS = ("negative", "positive")
# A derived family has no random model of its own; test_pruned puts it through the same questions.
ALL_FAMILIES = sorted(name for name, family in FAMILIES.items() if not family.derived)
# The last of the hidden states that these models return has a final norm applied; a tap gives the layer's own output.
FINAL_NORM = tuple(name for name in ALL_FAMILIES if FAMILIES[name].final_norm)
# Families that share an entry with an earlier one, or are read as another is: the fast tests do not train them.
_NAMES = [name for name, family in FAMILIES.items() if not family.derived]
ALIKE = [name for place, name in enumerate(_NAMES) if FAMILIES[name] in [FAMILIES[other] for other in _NAMES[:place]]]
ALIKE += ["deberta", "nomic_bert"]


def pytest_collection_finish() -> None:
    """Imported modules are no garbage: each run ends with a collection, which would look through them again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def own_accelerator() -> None:
    """Accelerate keeps the first device that a process asked for: on a GPU that of the test before."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def own_random_numbers() -> None:
    """A test draws the same numbers whichever tests come before it."""
    torch.manual_seed(0)


def data_folder() -> Path:
    """Real data for slow tests: ``TUTELAGE_DATA``, or ``../shared/data`` beside the repository."""
    return Path(os.environ.get("TUTELAGE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def field_cases_folder() -> Path:
    """Situations that people reported: ``TUTELAGE_FIELD_CASES``, or ``../shared/field_cases`` beside the repository."""
    return Path(os.environ.get("TUTELAGE_FIELD_CASES", Path(__file__).parents[2] / "shared" / "field_cases"))


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Sentences of 3 to 14 words; the label says whether good words outnumber bad ones."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(generator.integers(2))
        words = list(generator.choice(FILL, generator.integers(2, 11)))
        words += list(generator.choice(GOOD if label else BAD, generator.integers(1, 4)))
        texts.append(" ".join(generator.permutation(words)))
        labels.append(label)
    return texts, labels


def examples(count: int, seed: int, name: str = "train", pairs: bool = False) -> Examples:
    texts, labels = sentences(count, seed)
    other = sentences(count, seed + 1)[0] if pairs else None
    return Examples([f"{name}/{i}" for i in range(count)], texts, other, np.array(labels))


def make_data(train: int = 96, dev: int = 40) -> Data:
    return Data(
        task="toy",
        kind="classification",
        labels=LABELS,
        metrics=("accuracy", "macro_f1"),
        train=examples(train, 1),
        dev={"dev": examples(dev, 2, "dev")},
    )


def determined(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the biases of keys: they add one number to all scores of a query, which the softmax takes away again.

    Their gradient is rounding alone, and Adam makes steps of it that are as long as any other: where a loss sees nothing
    but what attention gives, two runs that sum up in another order part in them by some 1e-4, on some CPUs further.
    """
    return {name: tensor for name, tensor in weights.items() if not name.endswith(("key.bias", "k_lin.bias"))}


def assert_alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], within: float) -> None:
    """Two runs that differ in rounding have made the same student.

    Of a tensor's weights one, and one more of each thousand, may be further apart: Adam's first step is the sign of the
    gradient, and where that is as small as its rounding the sign may be either.
    """
    assert ours.keys() == theirs.keys()
    theirs = determined(theirs)
    for name, tensor in determined(ours).items():
        apart = (tensor - theirs[name]).abs()
        assert int((~(apart <= within)).sum()) <= 1 + tensor.numel() // 1000, f"{name}: up to {apart.max():.2g} apart"


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """The folder that ``build`` fills, once a session: of pytest-xdist's processes the first fills it and all read it.

    A test that would change such a folder takes a copy.
    """
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, finished = place / name, place / f"{name}.finished"
    with FileLock(place / f"{name}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            build(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}, model_max_length=32)


@pytest.fixture(scope="session")
def endoftext() -> GPT2TokenizerFast:
    """A tokenizer like GPT-2's: bytes, nothing put around a text, <|endoftext|> for its start and end, no padding token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    backend.train_from_iterator(sentences(50, 0)[0], trainer)
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return GPT2TokenizerFast(vocab=model["vocab"], merges=merges, model_max_length=40)


def tiny_config(family: str, layers: int = 4, hidden: int = 32, heads: int = 4, intermediate: int = 48, **more):
    names = FAMILIES[family]
    sizes = {
        names.depth: layers,
        names.hidden: hidden,
        names.heads: heads,
        names.intermediate: intermediate,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
    }
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 16
    if family == "mobilebert":
        sizes |= {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
    if family.startswith("deberta"):
        more_sizes = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
        sizes |= {**more_sizes, "type_vocab_size": 0, "pooler_hidden_size": hidden}
    if family == "deberta-v2":
        sizes |= {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    if family == "modernbert":
        sizes |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8}
    return AutoConfig.for_model(family, **{**sizes, **more})


def tiny_model(family: str = "bert", seed: int = 0, spread: float = 3.0, **sizes):
    """A random classifier whose weights are large enough for signals to differ between inputs."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config(family, **sizes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(spread)
            elif "bias" in name:
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory, tokenizer) -> Path:
    """A tiny BERT (4 layers x 32) that has learnt the toy task, saved as a user would have it."""
    return built_once(tmp_path_factory, "teacher", lambda root: make_teacher(root, tokenizer))


def make_teacher(root: Path, tokenizer: BertTokenizerFast) -> None:
    from tutelage.data.config import DataConfig
    from tutelage.methods.finetune import finetune
    from tutelage.recipes.config import RunConfig
    from tutelage.run.run import run
    from tutelage.students.specs import Checkpoint

    tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(root / "random")
    tokenizer.save_pretrained(root / "random")
    write_csv(root / "train.csv", 400, 1)
    write_csv(root / "dev.csv", 100, 2)
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"))
    recipe = finetune(Checkpoint(name=str(root / "random")), epochs=4, lr=3e-3)
    run(RunConfig(recipe=recipe, data=data, out=str(root / "teacher"), baseline=False), quiet=True)
    # One that knows the same, less surely: for teams.
    second = AutoModelForSequenceClassification.from_pretrained(root / "teacher")
    second.classifier.weight.data *= 0.5
    second.save_pretrained(root / "second")
    tokenizer.save_pretrained(root / "second")


def write_csv(path: Path, count: int, seed: int, label: bool = True) -> Path:
    texts, labels = sentences(count, seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"] if label else ["text"])
        for text, number in zip(texts, labels, strict=True):
            writer.writerow([text, LABELS[number]] if label else [text])
    return path


def kept_score(folder: Path, who: str = "student") -> float:
    """The score that comes out of the predictions that a run has kept."""
    from safetensors import safe_open

    from tutelage.run.measure import PREDICTIONS
    from tutelage.tasks import kind_of

    with safe_open(folder / PREDICTIONS, "np") as file:
        about = file.metadata()
        return kind_of(about["kind"]).pooled(about["metric"], file.get_tensor(who))
