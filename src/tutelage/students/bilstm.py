"""A student that is not a transformer: word embeddings and one bidirectional LSTM, with its own word-level tokenizer.

Distilled BiLSTM (Tang et al. 2019, arXiv 1903.12136), after the paper and the authors' code. It is the smallest student here
and learns from the teacher's logits alone. One difference: every text ends with the token [SEP], so that no text is empty and
both sentences of a pair have the same form.

Importing this module registers the model type ``bilstm`` with the Auto classes of transformers.
"""

# No `from __future__ import annotations` here: `strict` does not check types that it finds as strings.

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from tutelage.errors import TutelageError

SPECIAL = ("[PAD]", "[UNK]", "[SEP]")
"""The first entries of a vocabulary, in this order. The mask token follows."""

Vectors = Mapping[str, npt.ArrayLike] | tuple[Sequence[str], npt.NDArray[np.floating[Any]]]
"""Word vectors: a mapping from words, or the words and an array ``(words, width)``."""


@strict
class BiLSTMConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a BiLSTM: embedding table, LSTM units per direction, and the layer before the logits.

    With two ``channels``, the input of a word is its trained vector, concatenated with a frozen copy of its initial vector.
    With ``pairs``, the model compares two sentences, marked by token types.
    """

    model_type = "bilstm"

    # transformers reads these from every configuration; they are fixed for a BiLSTM.
    num_hidden_layers: ClassVar[int] = 1
    num_attention_heads: ClassVar[int] = 0

    vocab_size: int = 30004
    embedding_size: int = 300
    channels: Literal[1, 2] = 2
    hidden_size: int = 300
    intermediate_size: int = 400
    pairs: bool = False
    pad_token_id: int | None = 0

    @property
    def type_vocab_size(self) -> int:
        """Number of token types."""
        return 2 if self.pairs else 1


class BiLSTMForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """One bidirectional LSTM over a sentence, or over each of two, and two linear layers.

    The vector of a sentence is the last state of both directions, ``s = [forwards; backwards]``, ``(B, 2 hidden)``. The
    logits ``(B, classes)`` of a sentence are ``W2 dropout(relu(W1 s))``. Those of a pair with the vectors ``u`` and ``v``
    are ``W2 relu(W1 [u; v; |u - v|; u * v])``, without dropout as in the authors' code.
    """

    config_class = BiLSTMConfig
    _input_embed_layer = "embeddings"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        words, hidden = (config.vocab_size, config.embedding_size), config.hidden_size
        self.embeddings = nn.Embedding(*words)
        self.frozen_embeddings = nn.Embedding(*words).requires_grad_(False) if config.channels == 2 else None
        # Two LSTMs instead of a bidirectional one, whose backward direction would start in the padding.
        self.forwards = nn.LSTM(config.channels * config.embedding_size, hidden, batch_first=True)
        self.backwards = nn.LSTM(config.channels * config.embedding_size, hidden, batch_first=True)
        self.dense = nn.Linear((8 if config.pairs else 2) * hidden, config.intermediate_size)
        self.dropout = nn.Dropout(0.0 if config.pairs else 0.1)
        self.classifier = nn.Linear(config.intermediate_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # transformers guards the functions of torch.nn.init, so they do not overwrite loaded weights.
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.Linear | nn.LSTM):
            module.reset_parameters()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits ``(B, classes)`` of tokens ``(B, n)``. Padding may be anywhere except within a sentence.

        In a pair, tokens of the first sentence have type 0, tokens of the second type 1; a model for single sentences
        ignores types. An empty sentence has the zero vector. With ``labels``, the output includes the loss named by
        ``config.problem_type``.

        Raises:
            TutelageError: if a model for pairs gets no ``token_type_ids``.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.config.pairs:
            if token_type_ids is None:
                raise TutelageError(
                    "a BiLSTM for pairs needs token_type_ids; use a tokenizer whose model_input_names include them"
                )
            sides = torch.cat([real * (token_type_ids == side) for side in (0, 1)])
            u, v = self._sentences(input_ids.repeat(2, 1), sides).view(2, input_ids.shape[0], -1)
            features = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
        else:
            features = self._sentences(input_ids, real)
        logits = self.classifier(self.dropout(F.relu(self.dense(features))))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _sentences(self, ids: Tensor, inside: Tensor) -> Tensor:
        """Vectors ``(B, 2 hidden)`` of the sentences where ``inside`` is 1; ``ids`` and ``inside`` are ``(B, n)``."""
        lengths = inside.sum(dim=1, keepdim=True)
        start = (inside.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        width = ids.shape[1]
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            # About half of a pair is the other sentence, which is skipped. On a GPU this would make the host wait.
            width = max(int(lengths.max()), 1)
        step = torch.arange(width, device=ids.device)

        def words(places: Tensor) -> Tensor:
            # Any token will do beyond the sentence: states after its end are not used.
            return self._vectors(ids.gather(1, places.clamp(0, ids.shape[1] - 1)))

        if torch.onnx.is_in_onnx_export():
            states = self._last_states_in_onnx(words(start + step), lengths[:, 0])
        else:
            last = (lengths - 1).clamp(min=0)[..., None].expand(-1, -1, self.config.hidden_size)
            ways = ((self.forwards, start + step), (self.backwards, start + lengths - 1 - step))
            # cuDNN has no backward pass in evaluation mode, in which the gradients of a team's rewards are computed.
            plain = torch.is_grad_enabled() and not self.training
            wide = ids.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _half_is_known()
            with (
                torch.backends.cudnn.flags(enabled=False) if plain else nullcontext(),
                torch.autocast("cpu", enabled=False) if wide else nullcontext(),
            ):
                states = [lstm(words(places))[0].gather(1, last)[:, 0] for lstm, places in ways]
        return torch.cat(states, dim=-1).masked_fill(lengths == 0, 0.0)

    def _last_states_in_onnx(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """The last state of each direction, ``(B, hidden)``, for ``x`` ``(B, n, width)``, by ONNX's own LSTM operator.

        That operator takes lengths. torch.export unrolls PyTorch's LSTM to the length of the example, and the exporter's
        workaround works only for the first export of a process (torch 2.13).
        """
        (batch, length, _), hidden = x.shape, self.config.hidden_size
        # Order of the four gates: PyTorch input, forget, cell, output; ONNX input, output, forget, cell.
        order = torch.arange(4 * hidden).view(4, hidden)[[0, 3, 1, 2]].flatten()

        def both(name: str) -> Tensor:
            return torch.stack([lstm.get_parameter(name)[order] for lstm in (self.forwards, self.backwards)])

        biases = torch.cat([both("bias_ih_l0"), both("bias_hh_l0")], dim=1)
        _, states, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            [x.transpose(0, 1), both("weight_ih_l0"), both("weight_hh_l0"), biases, lengths.int()],
            {"direction": "bidirectional", "hidden_size": hidden},
            dtypes=[x.dtype] * 3,
            shapes=[(length, 2, batch, hidden), (2, batch, hidden), (2, batch, hidden)],
        )
        return list(states.unbind())

    def _vectors(self, ids: Tensor) -> Tensor:
        """The LSTM's input, ``(B, n)`` to ``(B, n, channels * embedding_size)``."""
        learnt: Tensor = self.embeddings(ids)
        if self.frozen_embeddings is None:
            return learnt
        # detach() is needed, too: from_pretrained sets requires_grad on every parameter.
        return torch.cat([self.frozen_embeddings(ids).detach(), learnt], dim=-1)


@cache
def _half_is_known() -> bool:
    """Whether this CPU computes an LSTM in bfloat16: oneDNN does so from AVX-512 on, and PyTorch's autocast does not ask."""
    with torch.random.fork_rng(devices=[]):  # a run's random numbers stay what they were
        lstm = nn.LSTM(1, 1)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


AutoConfig.register(BiLSTMConfig.model_type, BiLSTMConfig)
AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification)


def new_bilstm(
    tokenizer: PreTrainedTokenizerFast,
    labels: dict[str, Any],
    *,
    hidden: int = 300,
    intermediate: int = 400,
    embedding: int = 300,
    channels: Literal[1, 2] = 2,
    pairs: bool = False,
    vectors: Vectors | None = None,
) -> BiLSTMForSequenceClassification:
    """A new BiLSTM with random weights, in evaluation mode. ``vectors`` initialise its word embeddings.

    Words without a vector get normal random values with the standard deviation of the known vectors (0.1 if there are no
    vectors). Both channels start equal. The result depends on torch's random state.

    Args:
        tokenizer: gives the vocabulary (see :func:`word_tokenizer`).
        labels: configuration fields: ``num_labels``, or ``id2label`` and ``label2id``; ``problem_type``.
        hidden: LSTM units per direction.
        intermediate: width of the layer before the logits.
        embedding: width of a word's vector in one channel.
        channels: 1 or 2 (the paper's), see :class:`BiLSTMConfig`.
        pairs: whether the model reads two sentences.
        vectors: word vectors; words that the tokenizer lacks are ignored.

    Raises:
        TutelageError: if ``vectors`` have another width, or the tokenizer knows none of their words.
    """
    config = BiLSTMConfig(
        vocab_size=len(tokenizer),
        embedding_size=embedding,
        channels=channels,
        hidden_size=hidden,
        intermediate_size=intermediate,
        pairs=pairs,
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    model = BiLSTMForSequenceClassification(config)
    model.eval()
    with torch.no_grad():
        if vectors is not None:
            model.embeddings.weight.copy_(_table(tokenizer.get_vocab(), embedding, vectors))
        if model.frozen_embeddings is not None:
            model.frozen_embeddings.weight.copy_(model.embeddings.weight)
    return model


def _table(vocabulary: dict[str, int], width: int, vectors: Vectors) -> Tensor:
    """An embedding table ``(vocabulary, width)``: vectors of known words, random values for the others."""
    if isinstance(vectors, tuple):
        words, array = vectors
        if array.shape[:1] != (len(words),):
            raise TutelageError(
                f"word vectors of shape {array.shape} do not match {len(words):,} words; each word needs one row"
            )
        vectors = {word: vector for word, vector in zip(words, array, strict=True) if word in vocabulary}
    known = {row: np.asarray(vectors[word], np.float32) for word, row in vocabulary.items() if word in vectors}
    if not known:
        raise TutelageError(
            f"none of the tokenizer's {len(vocabulary):,} words has a word vector; use lower-case vectors of the same "
            "language, or no vectors"
        )
    wrong = {vector.shape for vector in known.values()} - {(width,)}
    if wrong:
        raise TutelageError(
            f"a word vector has the shape {wrong.pop()}, but the student has embedding={width}; set embedding to the "
            "size of the vectors"
        )
    rows = torch.from_numpy(np.stack(list(known.values())))
    table = torch.randn(len(vocabulary), width, device="cpu") * rows.std(correction=0)
    table[list(known)] = rows
    return table


def word_tokenizer(texts: Iterable[str], size: int, max_length: int, mask: str = "[MASK]") -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the ``size`` most frequent words of ``texts`` (ties in alphabetical order).

    Texts are split like BERT's before WordPiece: lower case, no accents, split at spaces and around punctuation. A text
    becomes ``text [SEP]``, a pair ``text [SEP] pair [SEP]`` with the token types 0 and 1. The ids start with [PAD] = 0,
    [UNK], [SEP] and ``mask``; these do not count towards ``size``. If a text contains such a name, it becomes that token.
    """
    special = [*SPECIAL, mask]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(vocab_size=size + len(special), special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator((_without(special, text) for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[SEP]", SPECIAL.index("[SEP]"))],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]", "mask_token": mask}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def _without(special: list[str], text: str) -> str:
    # The trainer does not recognise special tokens in a text: [MASK] would count as the words "[", "mask" and "]".
    for name in special:
        text = text.replace(name, " ")
    return text
