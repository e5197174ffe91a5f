"""Random and mutated configurations, in process: each is read, or refused in one line, within ten seconds.

``TUTELAGE_FUZZ`` is the number of inputs of each kind (default 500).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_model
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.objectives.kinds import kinds_of
from tutelage.recipes.config import RunConfig, from_yaml, to_yaml
from tutelage.recipes.settings import with_settings
from tutelage.students.load import load_model
from tutelage.students.specs import StudentSpec, parse
from tutelage.teachers.source import Source

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("TUTELAGE_FUZZ", "500"))
FUZZ = settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
LONGEST = 10.0
"""Seconds that an input may take."""

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 3, 7, 16, 32, 33, 2**31, 2**63, -(2**63), 10**18, 10**30, 0.0, 0.5, -0.5, 1e300]
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.integers() | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
SEEN = {"read": 0, "refused": 0}


def survives(act: Callable[[], object]) -> None:
    """Let ``act`` succeed or refuse in one line, in time."""
    began, line = time.monotonic(), ""
    try:
        act()
    except TutelageError as error:
        line = str(error)
    SEEN["refused" if line else "read"] += 1
    assert "\n" not in line and len(line) < 3000
    assert time.monotonic() - began < LONGEST


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """Shown with ``pytest -s``."""
    yield
    print(f"\nfuzzed configurations: {SEEN['read']:,} read, {SEEN['refused']:,} refused in one line")


@st.composite
def mutated(draw: st.DrawFn, tree: dict[str, Any], more: tuple[str, ...] = ()) -> Any:
    """A tree with some of its values, at any depth, replaced, removed or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        node: Any = tree
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            places += list(more) if node is tree else []
            if not places:
                break
            key = draw(st.sampled_from(places))
            inner = node.get(key) if isinstance(node, dict) else node[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                node = inner
                continue
            if draw(st.integers(0, 5)) or not isinstance(node, dict):
                node[key] = draw(TREES)
            else:
                node.pop(key, None)
            break
    return tree


@st.composite
def written(draw: st.DrawFn, tree: dict[str, Any], more: tuple[str, ...] = ()) -> bytes:
    """A JSON file: mutated, cut, with bytes exchanged, or of nothing that was there."""
    how = draw(st.integers(0, 9))
    if how == 0:
        return json.dumps(draw(TREES)).encode()
    if how == 1:
        return draw(st.binary(max_size=60))
    text = json.dumps(draw(mutated(tree, more)), allow_nan=True).encode("utf-8", "surrogatepass")
    if how == 2:
        return text[: draw(st.integers(0, len(text)))]
    if how == 3:
        place = draw(st.integers(0, len(text) - 1)) if text else 0
        return text[:place] + draw(st.binary(max_size=3)) + text[place + 1 :]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any, tokenizer: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("fuzz") / "model"
    tiny_model(layers=1, hidden=8, heads=2, intermediate=8).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


CONFIG_MORE = (
    "output_attentions", "return_dict", "torch_dtype", "problem_type", "num_labels", "quantization_config", "auto_map",
    "is_decoder", "attn_implementation", "pruned_heads", "layer_types", "rope_parameters", "per_layer_config",
)  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert", "gpt2", "modernbert"])
def test_config_json(family: str, folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "model"
    tiny_model(family, layers=2, hidden=8, heads=2, intermediate=8).save_pretrained(path)
    tokenizer.save_pretrained(path)
    tree = json.loads((path / "config.json").read_text())

    @FUZZ
    @given(written(tree, CONFIG_MORE))
    def run(content: bytes) -> None:
        (path / "config.json").write_bytes(content)
        survives(lambda: Source(str(path)).outline)
        survives(lambda: load_model(str(path), id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}))

    run()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_tokenizer_files(name: str, folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "model")
    tree = json.loads((path / name).read_text())
    more = ("model_max_length", "tokenizer_class", "added_tokens_decoder", "model_input_names", "auto_map", "pad_token",
            "special_tokens_map", "truncation_side", "extra_special_tokens")  # fmt: skip

    @FUZZ
    @given(written(tree, more))
    def run(content: bytes) -> None:
        (path / name).write_bytes(content)
        survives(lambda: load_tokenizer(str(path)))

    run()


def test_adapter_and_trainer_files(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    (path / "checkpoint-3").mkdir(parents=True)
    shutil.copy(folder / "config.json", path / "checkpoint-3")
    names = ("modules.json", "adapter_config.json", "checkpoint-3/trainer_state.json", "model.safetensors.index.json")
    tree = {"best_model_checkpoint": "a/checkpoint-3", "base_model_name_or_path": "b", "weight_map": {"x": "y"}}

    @FUZZ
    @given(st.sampled_from(names), written(tree))
    def run(name: str, content: bytes) -> None:
        for other in names:
            (path / other).unlink(missing_ok=True)
        (path / name).write_bytes(content)
        survives(lambda: load_model(str(path)))

    run()


def test_model_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pieces = st.sampled_from(["a", "/", "..", "~", "\\", ".", " ", "\0", "é", "b-c", ":", "*", "\n", "[", "x" * 300])

    @FUZZ
    @given(st.lists(pieces, max_size=6).map("".join) | st.text(max_size=20))
    def run(name: str) -> None:
        survives(lambda: load_model(name))

    run()


RUN = RunConfig(recipe=METHODS["tinybert"]().part("task"), teacher="teacher", out="out")


def test_run_files(tmp_path: Path) -> None:
    tree, path = RUN.model_dump(mode="json"), tmp_path / "run.yaml"
    text = to_yaml(RUN)

    @FUZZ
    @given(
        mutated(tree).map(lambda one: yaml.safe_dump(one, allow_unicode=True).encode("utf-8", "surrogatepass"))
        | st.tuples(st.integers(0, len(text) - 1), st.text("[]{}&*!|>-:#?,'\"%@\t\n aé0", max_size=4)).map(
            lambda cut: (text[: cut[0]] + cut[1] + text[cut[0] + 1 :]).encode()
        )
        | st.text("[]{}&*!<|>-:#?,'\"%@`\t\n a01e.~_", max_size=40).map(str.encode)
        | st.binary(max_size=40)
    )
    def run(content: bytes) -> None:
        path.write_bytes(content)
        survives(lambda: from_yaml(path))

    run()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "a: &a [*a]",
        "&a {b: *a}",
        "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]),
        "a: 2020-13-45",
        "a: !!int x",
        "a: " + "9" * 10_000,
        "a: !!python/object/apply:os.system [ls]",
        "? [a, b]\n: c",
        "a: !!binary x",
        "a: !!timestamp x",
        "<<: 3",
    ],
    ids=lambda content: content[:20],
)
def test_yaml_that_has_no_end(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    survives(lambda: from_yaml(path))
    survives(lambda: with_settings(RUN, [f"seed={content}"]))
    with pytest.raises(TutelageError):
        from_yaml(path)


def test_settings_of_the_command_line() -> None:
    names = [
        "stages",
        "*",
        "seed",
        "data",
        "task",
        "epochs",
        "objective",
        "soft_labels",
        "temperature",
        "student",
        "kind",
        "",
        "0",
    ]
    paths = st.lists(st.sampled_from(names), max_size=4).map(".".join) | st.text(max_size=10)
    values = SCALARS.map(str) | st.text("[]{}&*!|>-:#,'\"a0. ", max_size=12) | TREES.map(lambda one: json.dumps(one))

    @FUZZ
    @given(st.lists(st.tuples(paths, st.sampled_from(["=", "", "=="]), values).map("".join), max_size=3))
    def run(given_settings: list[str]) -> None:
        survives(lambda: with_settings(RUN, given_settings))

    run()


def test_student_specifications() -> None:
    fields = sorted({name for kind in kinds_of(StudentSpec, "init").values() for name in kind.model_fields})
    values = st.sampled_from(
        [
            "3",
            "1+2",
            "none",
            "shuffled",
            "0",
            "-1",
            "x",
            "",
            "+",
            "1e9",
            "99999999999999999999",
            *kinds_of(StudentSpec, "init"),
        ]
    )
    parts = st.tuples(st.sampled_from([*fields, "", "no such"]), st.sampled_from(["=", "", "=="]), values).map("".join)
    recipes = st.sampled_from([None, *(make().student for make in METHODS.values())])

    @FUZZ
    @given(st.lists(parts, max_size=4).map(",".join) | st.text(max_size=20), recipes)
    def run(text: str, own: Any) -> None:
        survives(lambda: parse(text, own))

    run()
