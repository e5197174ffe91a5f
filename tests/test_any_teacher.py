"""Every classification model of transformers teaches by its predictions; what reads more of it is one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS, VOCABULARY, tiny_model, write_csv
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from tutelage import anatomy
from tutelage.data.batches import EVALUATION_TOKENS, pieces
from tutelage.data.config import DataConfig
from tutelage.data.examples import Encoded
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench
from tutelage.students.load import load_config
from tutelage.students.specs import Checkpoint, Copied, Fresh, Student
from tutelage.teachers.teacher import predict

ATTENTION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "funnel": {"block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    "fnet": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "type_vocab_size": 2},
    "llama": {**ATTENTION, "num_key_value_heads": 1, "pad_token_id": None},
    "qwen2": {**ATTENTION, "num_key_value_heads": 1, "pad_token_id": None, "max_window_layers": 2},
    "roberta-prelayernorm": {**ATTENTION, "max_position_embeddings": 40},
}
"""Models outside the table of families, and their tiny sizes."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_csv(tmp_path / "train.csv", 48, 1)
    write_csv(tmp_path / "dev.csv", 32, 2)
    return tmp_path


def save(family: str, folder: Path, tokenizer) -> Path:
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": len(VOCABULARY)}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**special, **labels, **SIZES[family]})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_for(root: Path, method: str, student: Student, **more) -> RunConfig:
    recipe = METHODS[method]().part("task")
    stages = [stage.model_copy(update={"epochs": 2, "lr": 3e-3}) for stage in recipe.stages]
    recipe = recipe.model_copy(update={"student": student, "stages": stages})
    data = DataConfig(train=str(root / "train.csv"), dev=str(root / "dev.csv"))
    places = {"teacher": str(root / "teacher"), "out": str(root / "run")}
    return RunConfig(recipe=recipe, data=data, **places, allow_weak_teacher=True, baseline=False, **more)


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in ("t5", "llama", "xlnet") else [pytest.mark.slow]) for name in SIZES],
)
def test_it_teaches_as_it_answers_alone(family: str, tokenizer, root: Path) -> None:
    save(family, root / "teacher", tokenizer)
    tiny_model("bert", layers=2).save_pretrained(root / "student")
    tokenizer.save_pretrained(root / "student")
    config = config_for(root, "kd", Checkpoint(name=str(root / "student")))
    plain = AutoModelForSequenceClassification.from_pretrained(root / "teacher").eval()
    plain.config.pad_token_id = 0
    own = AutoTokenizer.from_pretrained(root / "teacher", padding_side="left" if family == "xlnet" else "right")
    with bench(quiet=True) as desk:
        task = TaskRun(desk, config)
        assert task.teacher is not None
        known, texts = task.teacher.on_train("train"), task.texts.parts["train"]
        read = texts.teacher or texts.student
        for rows in pieces(np.arange(len(read)), read.lengths, EVALUATION_TOKENS):
            inputs = own(texts.examples.take(rows).texts, padding=True, return_tensors="pt")
            if family == "fnet":
                inputs.pop("attention_mask")
            with torch.no_grad():
                assert torch.equal(known[rows], plain(**inputs).logits)
    report = run(config, quiet=True)
    assert report["teacher"]["shape"].startswith(f"{family}, read for its predictions alone")
    assert report["teacher"]["flops"] > 0 and report["student"]["speedup"] > 0
    assert report["stages"][0]["losses"]["soft_labels"]


@pytest.mark.parametrize(
    ("method", "student", "line"),
    [
        (
            "pkd",
            Fresh(layers=2, hidden=16, heads=2, intermediate=24, family="bert"),
            "a t5 has logits alone; use a method that learns from predictions alone",
        ),
        ("tinybert", Fresh(layers=2, hidden=16, heads=2, intermediate=24, family="bert"), "a t5 has logits alone"),
        ("kd", Copied(layers=1), "a t5 has no layers that can be copied; use a fresh student with family=bert"),
        (
            "kd",
            Fresh(layers=2),
            "a fresh student cannot be a t5, which is read for its predictions alone; add family=bert",
        ),
        (
            "kd",
            Fresh(layers=2, family="bert"),
            "intermediate cannot be taken from a t5; give intermediate=NUMBER",
        ),
    ],
)
def test_what_reads_more_is_refused(method: str, student: Student, line: str, tokenizer, root: Path) -> None:
    save("t5", root / "teacher", tokenizer)
    with pytest.raises(TutelageError, match=line):
        run(config_for(root, method, student), quiet=True)
    assert not (root / "run").exists()


@pytest.mark.parametrize(
    ("family", "padding", "length"),
    [("roberta-prelayernorm", 1, 510), ("llama", 127_999, 512), ("llama", 0, 511), ("canine", 0, 511)],
)
def test_padding_numbers_positions_only_if_it_is_among_the_first_tokens(
    family: str, padding: int, length: int, tokenizer, tmp_path: Path
) -> None:
    sizes = {} if family == "canine" else {"vocab_size": 128_000}
    config = AutoConfig.for_model(family, pad_token_id=padding, max_position_embeddings=512, **sizes)
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert anatomy.max_length(load_config(str(tmp_path))) == length


def test_a_model_of_characters_answers_every_code_point() -> None:
    """CANINE hashes code points: no token is beyond its vocabulary, for it has none. Padding would change its answers."""
    sizes = {**ATTENTION, "num_hash_buckets": 32, "max_position_embeddings": 64, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("canine", **sizes)).eval()
    texts = [[57344, *map(ord, text), 57345] for text in ("plain words", "\N{GRINNING FACE} beyond 12")]
    offsets = np.cumsum([0, *map(len, texts)])
    encoded = Encoded(np.concatenate(texts).astype(np.int32), None, offsets, np.zeros(2, bool), pad_token=0)
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([text])).logits for text in texts])
    torch.testing.assert_close(predict(model, encoded, Accelerator(cpu=True)), alone, atol=1e-4, rtol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 0.05


def test_a_fresh_student_takes_its_vocabulary(tokenizer, root: Path) -> None:
    save("t5", root / "teacher", tokenizer)
    student = Fresh(layers=2, hidden=16, heads=2, intermediate=24, family="bert")
    run(config_for(root, "kd", student), quiet=True)
    config = AutoConfig.from_pretrained(root / "run" / "student")
    assert (config.model_type, config.vocab_size, config.max_position_embeddings) == ("bert", len(VOCABULARY), 512)


@pytest.mark.parametrize("family", ["funnel", pytest.param("xlnet", marks=pytest.mark.slow)])
def test_it_can_be_fine_tuned_first(family: str, tokenizer, root: Path) -> None:
    """Its labels are learnt as by any other student; the saved model answers as it did."""
    save(family, root / "student", tokenizer)
    config = config_for(root, "finetune", Checkpoint(name=str(root / "student")))
    report = run(config.model_copy(update={"teacher": None}), quiet=True)
    losses = report["stages"][0]["losses"]["hard_labels"]
    assert losses[-1][1] < losses[0][1] and report["student"]["flops"] > 0
    assert AutoConfig.from_pretrained(root / "run").model_type == family
