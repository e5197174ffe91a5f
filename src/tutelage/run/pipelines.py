"""An exported folder as a pipeline of transformers, for programs that have one already."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError
from tutelage.run.serving import graph_of
from tutelage.serving import OnnxModel

PROBLEMS = {"class": "single_label_classification", "classes": "multi_label_classification", "number": "regression"}
"""By the ``answer`` of a graph: what transformers calls its task."""


class OnnxConfig(PreTrainedConfig):  # type: ignore[misc]
    """What transformers asks of a model, as an exported graph says it of itself."""

    model_type = "tutelage_onnx"


class _OnnxNetwork(PreTrainedModel):  # type: ignore[misc]
    """A graph that answers where transformers expects a network. It cannot be trained or saved."""

    config_class = OnnxConfig

    def __init__(self, config: OnnxConfig, graph: OnnxModel) -> None:
        super().__init__(config)
        self.graph = graph

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def logits(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The outputs of each text over the temperature. Each text runs alone and without padding, as ``serve.py`` runs it."""
        lengths = inputs["attention_mask"].sum(1).tolist()
        rows = (
            {name: value[row : row + 1, :length] for name, value in inputs.items()}
            for row, length in enumerate(lengths)
        )
        return [torch.from_numpy(self.graph.logits(row))[0] / self.graph.about.temperature for row in rows]


class OnnxForSequenceClassification(_OnnxNetwork):
    """A graph that classifies or scores texts."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Logits over the temperature, ``(texts, classes)``."""
        return SequenceClassifierOutput(
            logits=torch.stack(self.logits(_given(input_ids, attention_mask, token_type_ids)))
        )


class OnnxForTokenClassification(_OnnxNetwork):
    """A graph that tags tokens."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Logits over the temperature, ``(texts, tokens, classes)``; 0 at padding."""
        rows = self.logits(_given(input_ids, attention_mask, token_type_ids))
        return TokenClassifierOutput(logits=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))


# Else transformers logs, as an error, that it does not know the model.
AutoModelForSequenceClassification.register(OnnxConfig, OnnxForSequenceClassification)
AutoModelForTokenClassification.register(OnnxConfig, OnnxForTokenClassification)


def _given(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> dict[str, Tensor]:
    types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    return {"input_ids": input_ids, "attention_mask": attention_mask, **types}


def pipeline(folder: str | os.PathLike[str], **settings: Any) -> Pipeline:
    """A pipeline of transformers on an exported model, which onnxruntime runs; probabilities are those of ``serve.py``.

    Args:
        folder: Folder of ``tutelage export`` (its ``model.int8.onnx`` where that exists), or one of its ONNX files.
        **settings: Settings of the pipeline: ``top_k=None``, ``batch_size=8``, ``aggregation_strategy="first"``.

    Returns:
        ``text-classification`` for classes and numbers, ``token-classification`` for tokens. It does not read a ``cascade.json``.

    Raises:
        TutelageError: the folder holds no exported model, or transformers has no pipeline for its answers.

    Example:
        >>> tutelage.pipeline("served/")("move 100 dollars to my checking account")  # doctest: +SKIP
        [{'label': 'transfer', 'score': 0.9731}]
    """
    name = os.path.expanduser(os.fspath(folder))
    path = graph_of(name)
    if path is None:
        raise TutelageError(
            f"{name!r} holds no exported model; write one with tutelage export, or use transformers' own pipeline"
        )
    graph = OnnxModel(path)
    about = graph.about
    if about.answer not in (*PROBLEMS, "tags"):
        raise TutelageError(
            f"transformers has no pipeline for the answers of {name!r} ({about.kind}); use its serve.py"
        )
    names = about.labels or ("score",)
    config = OnnxConfig(
        id2label=dict(enumerate(names)),
        label2id={label: number for number, label in enumerate(names)},
        problem_type=PROBLEMS.get(about.answer),
    )
    tokenizer = load_tokenizer(str(path.parent))
    tokenizer.padding_side = "right"
    if about.max_length is not None:
        tokenizer.model_max_length = about.max_length
    if about.answer == "tags":
        return TokenClassificationPipeline(
            model=OnnxForTokenClassification(config, graph), tokenizer=tokenizer, device=-1, **settings
        )
    cut = {} if about.max_length is None else {"truncation": True}
    return TextClassificationPipeline(
        model=OnnxForSequenceClassification(config, graph), tokenizer=tokenizer, device=-1, **{**cut, **settings}
    )
