"""A student that is no transformer: word embeddings and one bidirectional LSTM, with a word-level tokenizer of its own.

Distilled BiLSTM (Tang et al. 2019, arXiv 1903.12136), after the paper and the authors' code: the smallest student here,
which learns from the teacher's logits alone. One thing differs: every text ends with the token [SEP], so that none is
empty and the two sentences of a pair look alike.

Importing this module makes the Auto classes of transformers know the type ``bilstm``.
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
"""The first entries of a vocabulary, in this order; the mask token follows."""

Vectors = Mapping[str, npt.ArrayLike] | tuple[Sequence[str], npt.NDArray[np.floating[Any]]]
"""Word vectors: by word, or the words and an array ``(words, width)``."""


@strict
class BiLSTMConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a BiLSTM: of its embedding table, its LSTM in each direction, and the layer before the logits.

    With two ``channels`` a word is its learnt vector and, beside it, the vector that it had at first. A model for
    ``pairs`` compares two sentences, which token types tell apart.
    """

    model_type = "bilstm"

    # What is asked of any model's configuration; a BiLSTM has no choice.
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
        """Token types that the model tells apart."""
        return 2 if self.pairs else 1


class BiLSTMForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """One bidirectional LSTM over a sentence, or over each of two, and two linear layers.

    A sentence's vector is the last state of either direction, ``s = [forwards; backwards]``, ``(B, 2 hidden)``. The
    logits ``(B, classes)`` of a sentence are ``W2 dropout(relu(W1 s))``, those of a pair with the vectors ``u`` and ``v``
    are ``W2 relu(W1 [u; v; |u - v|; u * v])``, without dropout as in the authors' code.
    """

    config_class = BiLSTMConfig
    _input_embed_layer = "embeddings"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        words, hidden = (config.vocab_size, config.embedding_size), config.hidden_size
        self.embeddings = nn.Embedding(*words)
        self.frozen_embeddings = nn.Embedding(*words).requires_grad_(False) if config.channels == 2 else None
        # Two LSTMs rather than a bidirectional one: that would begin its way back in the padding.
        self.forwards = nn.LSTM(config.channels * config.embedding_size, hidden, batch_first=True)
        self.backwards = nn.LSTM(config.channels * config.embedding_size, hidden, batch_first=True)
        self.dense = nn.Linear((8 if config.pairs else 2) * hidden, config.intermediate_size)
        self.dropout = nn.Dropout(0.0 if config.pairs else 0.1)
        self.classifier = nn.Linear(config.intermediate_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # transformers guards the functions of torch.nn.init, so that weights which were loaded are left alone.
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
        """Logits ``(B, classes)`` of tokens ``(B, n)``, padded anywhere but within a sentence.

        The tokens of the first sentence of a pair have the type 0, those of the second the type 1; a model for single
        sentences does not look at types. A sentence without tokens is the zero vector. With ``labels`` there is the
        loss that ``config.problem_type`` names, too.

        Raises:
            TutelageError: when a model for pairs is not told which sentence a token belongs to.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.config.pairs:
            if token_type_ids is None:
                raise TutelageError(
                    "a BiLSTM for pairs needs token_type_ids; use a tokenizer whose model_input_names have them"
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
        """Vectors ``(B, 2 hidden)`` of sentences that lie where ``inside`` is 1: ``ids`` and it are ``(B, n)``."""
        lengths = inside.sum(dim=1, keepdim=True)
        start = (inside.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        width = ids.shape[1]
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            # Half of a pair is the other sentence. On a GPU the host would have to wait for this number.
            width = max(int(lengths.max()), 1)
        step = torch.arange(width, device=ids.device)

        def words(places: Tensor) -> Tensor:
            # Beyond the sentence any token will do: no state that is used comes after it.
            return self._vectors(ids.gather(1, places.clamp(0, ids.shape[1] - 1)))

        if torch.onnx.is_in_onnx_export():
            states = self._last_states_in_onnx(words(start + step), lengths[:, 0])
        else:
            last = (lengths - 1).clamp(min=0)[..., None].expand(-1, -1, self.config.hidden_size)
            ways = ((self.forwards, start + step), (self.backwards, start + lengths - 1 - step))
            # cuDNN goes back only through what trains; the gradients of a team's rewards are those of evaluation.
            plain = torch.is_grad_enabled() and not self.training
            wide = ids.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _half_is_known()
            with (
                torch.backends.cudnn.flags(enabled=False) if plain else nullcontext(),
                torch.autocast("cpu", enabled=False) if wide else nullcontext(),
            ):
                states = [lstm(words(places))[0].gather(1, last)[:, 0] for lstm, places in ways]
        return torch.cat(states, dim=-1).masked_fill(lengths == 0, 0.0)

    def _last_states_in_onnx(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """Either direction's last state, ``(B, hidden)``, of ``x``, ``(B, n, width)``, as ONNX's own operator gives it.

        It knows lengths. torch.export unrolls PyTorch's LSTM to the example's length, and the exporter's remedy holds only
        for the first export of a process (torch 2.13).
        """
        (batch, length, _), hidden = x.shape, self.config.hidden_size
        # Four gates, one below the other: input, forget, cell, output here; input, output, forget, cell there.
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
        """The words as the LSTM reads them, ``(B, n)`` to ``(B, n, channels * embedding_size)``."""
        learnt: Tensor = self.embeddings(ids)
        if self.frozen_embeddings is None:
            return learnt
        # Detached as well: from_pretrained makes every parameter one that learns.
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
    """A BiLSTM that has learnt nothing but, where ``vectors`` has them, what its words mean; in evaluation mode.

    Words without a vector are drawn from a normal distribution as wide as the numbers of those with one, all words with
    standard deviation 0.1 where there are no vectors. Both channels start alike. The result depends on torch's random
    state.

    Args:
        tokenizer: gives the vocabulary (see :func:`word_tokenizer`).
        labels: ``num_labels``, or ``id2label`` and ``label2id``, and ``problem_type`` of the configuration.
        hidden: units of the LSTM in each direction.
        intermediate: width of the layer before the logits.
        embedding: width of a word's vector in one channel.
        channels: 1 or 2 (the paper's), see :class:`BiLSTMConfig`.
        pairs: whether the model reads two sentences.
        vectors: word vectors; those of words that the tokenizer lacks are passed over.

    Raises:
        TutelageError: when ``vectors`` are of another width, or of other words altogether.
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
    """An embedding table ``(vocabulary, width)`` of the known words' vectors and of random ones."""
    if isinstance(vectors, tuple):
        words, array = vectors
        if array.shape[:1] != (len(words),):
            raise TutelageError(
                f"word vectors of shape {array.shape} were given for {len(words):,} words; give as many"
            )
        vectors = {word: vector for word, vector in zip(words, array, strict=True) if word in vocabulary}
    known = {row: np.asarray(vectors[word], np.float32) for word, row in vocabulary.items() if word in vectors}
    if not known:
        raise TutelageError(
            f"none of the tokenizer's {len(vocabulary):,} words has a word vector; use vectors of its language, in lower "
            "case, or none"
        )
    wrong = {vector.shape for vector in known.values()} - {(width,)}
    if wrong:
        raise TutelageError(
            f"a word vector has the shape {wrong.pop()}, but the student has embedding={width}; set embedding to the "
            "width of the vectors"
        )
    rows = torch.from_numpy(np.stack(list(known.values())))
    table = torch.randn(len(vocabulary), width, device="cpu") * rows.std(correction=0)
    table[list(known)] = rows
    return table


def word_tokenizer(texts: Iterable[str], size: int, max_length: int, mask: str = "[MASK]") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: the ``size`` most frequent of ``texts``, of equally frequent ones the first by spelling.

    Texts are cut as BERT's are before it cuts words into pieces: in lower case, without accents, at spaces and around
    punctuation. A text becomes ``text [SEP]``, a pair ``text [SEP] pair [SEP]`` with the token types 0 and 1. The ids
    begin with [PAD] = 0, [UNK], [SEP] and ``mask``, which are not counted in ``size``; written in a text, each is the one
    entry of that name.
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
    # The trainer does not know them in a text: [MASK] would make the words "[", "mask" and "]" frequent.
    for name in special:
        text = text.replace(name, " ")
    return text
