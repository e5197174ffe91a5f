"""Any bytes given as a table end in data or in one line: no other exception, nothing that hangs, no crash of the interpreter."""

import csv
import io
import json
import os
import time

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.tasks.load import load_data

COUNT = int(os.environ.get("TUTELAGE_FUZZ", "4000"))
"""Inputs of each of the five tests."""
SECONDS = 10
KINDS = ["classification", "regression", "multilabel", "tokens", "spans"]

CELLS = [
    "",
    " ",
    "a",
    "b ",
    "A",
    "1",
    "1.0",
    "0,5",
    "nan",
    "NA",
    "a|b",
    "[0, 1]",
    "['a']",
    '"',
    "\x00",
    "\ud800",
    "1e999",
]
cells = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from([*CELLS, "9" * 400])
)
names = st.sampled_from(
    ["text", "label", "tokens", "ner_tags", "question", "context", "answers", "data", "columns", "id"]
)
trees = st.recursive(cells, lambda of: st.lists(of, max_size=4) | st.dictionaries(names, of, max_size=4), max_leaves=12)
rows = st.lists(st.fixed_dictionaries({"text": cells, "label": trees}), min_size=1, max_size=30)
PIECES = [
    "text",
    "label",
    ",",
    "\t",
    ";",
    "|",
    '"',
    '""',
    "\n",
    "\r\n",
    "\r",
    " ",
    "a",
    "b",
    "0",
    "1.5",
    "null",
    "NaN",
    "Infinity",
]
PIECES += [
    "{",
    "}",
    "[",
    "]",
    ":",
    "'",
    "sep=;\n",
    "\ufeff",
    "\x00",
    "é",
    "\u2028",
    "1e999",
    '{"text": "a", "label": ',
    "[" * 3000,
]
pieces = st.sampled_from([*PIECES, "9" * 5000])
options = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(KINDS),
        "header": st.booleans(),
        "skip_bad_rows": st.booleans(),
        "labels": st.sampled_from(["a,b", "0,1,2", "neg,pos"]),
        "text": st.sampled_from(["0", "tokens"]),
        "label": st.sampled_from(["1", "text"]),
        "text_pair": st.sampled_from(["label", "text"]),
    },
)
mutations = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), max_size=6)


def tried(folder, ending, raw, chosen):
    """Reads bytes as a file with this ending."""
    path = folder / f"a{ending}"
    path.write_bytes(raw)
    before, said = time.monotonic(), ""
    try:
        load_data(DataConfig(train=path, dev=path if len(raw) % 2 else None, unlabeled=path, **chosen))
    except TutelageError as error:
        said = str(error)
    assert "\n" not in said and len(said) < 3000
    assert time.monotonic() - before < SECONDS


def mutated(raw, changes):
    """Bytes with some replaced, from the front."""
    for place, other in changes:
        at = place % (len(raw) + 1)
        raw = raw[:at] + other + raw[at + 1 :]
    return raw


def fuzzed(test):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    found = settings(max_examples=COUNT, deadline=None, suppress_health_check=checks, database=None)(test)
    return pytest.mark.slow(found)


@fuzzed
@given(
    st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".csv.gz"]),
    st.binary(max_size=300),
    options,
)
def test_raw_bytes(tmp_path, ending, raw, chosen):
    tried(tmp_path, ending, raw, chosen)


@fuzzed
@given(st.sampled_from([".csv", ".tsv", ".json", ".jsonl"]), st.lists(pieces, max_size=60), mutations, options)
def test_pieces(tmp_path, ending, found, changes, chosen):
    tried(tmp_path, ending, mutated("".join(found).encode("utf-8", "surrogatepass"), changes), chosen)


@fuzzed
@given(st.sampled_from([",", "\t", ";", "|"]), st.sampled_from([".csv", ".tsv"]), rows, mutations, options)
def test_delimited(tmp_path, separator, ending, found, changes, chosen):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator)
    writer.writerows([["text", "label"], *([row["text"], row["label"]] for row in found)])
    tried(tmp_path, ending, mutated(buffer.getvalue().encode("utf-8", "surrogatepass"), changes), chosen)


@fuzzed
@given(st.sampled_from([".json", ".jsonl"]), st.booleans(), rows | trees, mutations, options)
def test_json(tmp_path, ending, lined, found, changes, chosen):
    text = "\n".join(map(json.dumps, found)) if lined and isinstance(found, list) else json.dumps(found)
    tried(tmp_path, ending, mutated(text.encode(), changes), chosen)


@fuzzed
@given(rows, st.booleans(), mutations, options)
def test_parquet(tmp_path, found, alike, changes, chosen):
    plain = [{name: str(value).encode("utf-8", "replace").decode() for name, value in row.items()} for row in found]
    buffer = io.BytesIO()
    try:
        pd.DataFrame(plain if alike else found).to_parquet(buffer)
    except Exception:  # Arrow has no type for such a column
        buffer = io.BytesIO()
        pd.DataFrame(plain).to_parquet(buffer)
    tried(tmp_path, ".parquet", mutated(buffer.getvalue(), changes), chosen)
