"""Load checkpoints from folders and the Hub: the one place where the configuration and the weights of others are read.

What was not written by this program is judged here, before anything is trained: settings that are not architecture are reset,
and weights that ``from_pretrained`` would make up or leave unused are an error, unless they belong to the head.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.utils import cached_file

from tutelage import anatomy
from tutelage.anatomy import Head, auto_class
from tutelage.anatomy.checkpoints import check_fetched, check_weights, near, pools, resolve, similar, weight_files
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError, last_reason
from tutelage.tasks.sentence import SentenceEncoder

NOT_ARCHITECTURE = (
    "output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript", "use_cache", "dtype",
    "torch_dtype", "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "experts_implementation", "_experts_implementation_internal", "gradient_checkpointing", "_name_or_path", "name_or_path",
    "transformers_version", "task_specific_params", "finetuning_task", "subnetworks"
)  # fmt: skip
"""Settings of the program that wrote a checkpoint. Carried over they change what ``forward`` returns, forbid saving, or say of
another model what is true of this one."""

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
MOST = {"layer": 512, "label": 100_000}
"""Larger numbers in a configuration are mistakes, and would keep transformers busy for hours."""


def load_config(name: str) -> Any:
    """Load the configuration of a checkpoint from a folder or the Hub, without settings that are not architecture.

    GPT-2 and other causal models classify by the last token before the padding, so their configuration gets the padding token
    of the tokenizer.

    Raises:
        TutelageError: if there is no configuration, it is damaged or needs code of its own, or its model type is not supported.
    """
    from tutelage.students import bilstm, sharing, uneven  # noqa: F401 (transformers knows their model types then)

    tree, commit = _read_config(name)
    _check_loadable(name, tree)
    kept = {key: value for key, value in tree.items() if key not in NOT_ARCHITECTURE}
    kept |= _labels(kept.pop("id2label", None), kept.pop("label2id", None), kept.pop("num_labels", None))
    problem = kept.get("problem_type")
    if problem not in PROBLEMS or (problem == PROBLEMS[1] and len(kept.get("id2label", "ab")) < 2):
        kept.pop("problem_type", None)
    try:
        config = CONFIG_MAPPING[tree["model_type"]].from_dict(kept, name_or_path=name)
    except Exception as error:  # each configuration checks its values in its own way
        raise TutelageError(
            f"config.json of the model {name!r} cannot be used: {last_reason(error)}; correct it"
        ) from None
    config._commit_hash = commit
    _check_sizes(name, config)
    family = anatomy.family_of(config)
    if family.causal or family is anatomy.UNREAD:
        inner = config.get_text_config()
        if family.causal or getattr(inner, "pad_token_id", None) is None:
            inner.pad_token_id = load_tokenizer(name).pad_token_id
        config.pad_token_id = inner.pad_token_id
    return config


def _check_sizes(name: str, config: Any) -> None:
    """See that the sizes of a configuration are sizes."""
    try:
        shape, longest = anatomy.shape_of(config), anatomy.max_length(config)
        sizes = [shape.hidden, shape.intermediate, shape.vocabulary]
        sizes += [shape.layers, shape.heads] if anatomy.family_of(config).layers else []  # an LSTM has none
        # Outside the table of families, a size that is called otherwise is 0.
        fine = min(sizes) >= (0 if anatomy.is_unread(config) else 1) and longest > 2
    except (TypeError, ValueError, AttributeError) as error:  # of a size that is missing, or no number
        raise TutelageError(
            f"config.json of the model {name!r} lacks a size ({last_reason(error)}); correct it"
        ) from None
    if not fine:
        raise TutelageError(
            f"config.json of the model {name!r} describes no network ({shape}, {shape.vocabulary} tokens in the vocabulary, "
            f"{longest} positions); correct it"
        )


def _read_config(name: str) -> tuple[dict[str, Any], str | None]:
    """``config.json`` as a tree, and its commit on the Hub."""
    place = Path(resolve(name))
    if place.is_dir():
        file = place / "config.json"
    else:
        try:
            file = Path(str(cached_file(name, "config.json")))
        except Exception as error:  # of the Hub's client
            if "connect to" in str(error) or "offline" in str(error).lower():
                raise TutelageError(
                    f"there is no folder {name!r} here, and the Hub cannot be reached ({last_reason(error).rstrip('.')}); "
                    f"connect to it, or give the folder of a model{similar(Path(name))}"
                ) from None
            raise TutelageError(
                f"there is no folder {name!r} here, and the Hub gives no model of this name ({last_reason(error).rstrip('.')})"
                f"{near(Path(name))}"
            ) from None
    check_fetched(name, file)
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TutelageError(
            f"config.json of the model {name!r} is not JSON ({last_reason(error)}); fetch the model again, or correct it"
        ) from None
    if not isinstance(tree, dict):
        raise TutelageError(
            f"config.json of the model {name!r} holds a {type(tree).__name__} instead of settings; fetch the model again"
        )
    return tree, None if place.is_dir() else file.parent.name


def setting_of(name: str, key: str) -> Any:
    """A field of a checkpoint's ``config.json`` that is no part of its architecture, or None.

    Raises:
        TutelageError: as :func:`load_config`.
    """
    return _read_config(name)[0].get(key)


def _check_loadable(name: str, tree: dict[str, Any]) -> None:
    """Refuse what needs code of the model's repository, is quantised, or is no model of transformers."""
    kind = tree.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if tree.get("auto_map") and not known:  # of a type that transformers knows its own code is used
        raise TutelageError(
            f"the model {name!r} needs code from its repository (auto_map in its config.json), which is not run here; use a "
            "model whose architecture is part of transformers"
        )
    if quantised := tree.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise TutelageError(
            f"the weights of the model {name!r} are quantised ({method or 'quantization_config in its config.json'}) and cannot "
            "be trained or copied; use the model that they were made from"
        )
    if not isinstance(kind, str):
        raise TutelageError(
            f"config.json of the model {name!r} has no model_type; add that of its family, such as bert or roberta"
        )
    if not known:
        raise TutelageError(
            f"the model {name!r} has model_type {kind!r}, which transformers {transformers.__version__} does not know; correct "
            f"config.json, or use one of {', '.join(sorted(anatomy.FAMILIES))}, or another classification model of transformers"
        )
    for key, value in tree.items():
        for part, most in MOST.items():
            if part in key and isinstance(value, int | float) and not 0 <= value <= most:
                raise TutelageError(
                    f"config.json of the model {name!r} has {key} {value}, where 0 to {most:,} makes sense; correct it"
                )


def _labels(names: Any, numbers: Any, count: Any) -> dict[str, Any]:
    """``id2label`` and ``label2id`` of a configuration, which agree. Names that cannot be read are left out.

    ``id2label`` counts, because transformers reads it. Where it names nothing, ``label2id`` does.
    """
    given = _by_number(names)
    if given is None or list(given.values()) == [f"LABEL_{i}" for i in range(len(given))]:
        given = _by_number(numbers) or given
    if given is None:
        return {"num_labels": count} if isinstance(count, int) and 0 < count <= MOST["label"] else {}
    return {"id2label": given, "label2id": {label: number for number, label in given.items()}}


def _by_number(names: Any) -> dict[int, str] | None:
    """Labels by number, of a list or a dict in either direction; ``None`` unless it numbers all from 0."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return None
    for pairs in (names.items(), ((value, key) for key, value in names.items())):
        found = {int(n): str(label) for n, label in pairs if re.fullmatch(r"\d{1,9}", str(n))}
        if sorted(found) == list(range(len(names))):
            return {number: found[number] for number in range(len(found))}
    return None


def load_model(name: str, head: Head = "classes", **labels: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model with this head from a folder or the Hub, in float32 and evaluation mode.

    Args:
        name: Folder or Hub id; of a run's folder the student.
        head: What the model answers.
        **labels: Fields of the configuration that describe the outputs. A head for other labels is replaced by a new one.

    Returns the model and the names of its new weights, which are random: those of the head, or of the pooler.

    Raises:
        TutelageError: if there is no such checkpoint, its model type is not supported, or its weights are not whole.
    """
    path = resolve(name)
    config = fitted_config(load_config(path), head)
    for key, value in labels.items():
        setattr(config, key, value)
    if Path(path).is_dir():
        check_weights(name, Path(path))
        _check_size(name, Path(path), config, head)
    model, found = _from_pretrained(name, path, config, head)
    lacking = _outside_head(model, found["missing_keys"])
    prefix = _prefix(lacking, found["unexpected_keys"], model)
    if lacking and prefix:
        model, found = _from_pretrained(name, path, config, head, {f"^{re.escape(prefix)}": ""})
        lacking = _outside_head(model, found["missing_keys"])
    _check_whole(name, model, lacking, prefix, found)
    _check_shapes(name, model, found["mismatched_keys"], bool(labels))
    if anatomy.family_of(config).reads_neighbours and config.pad_token_id is not None:
        # Beside padding a token is embedded as at the end of a text, so that no answer depends on what else is in the batch.
        anatomy.word_embeddings_of(model).weight.data[config.pad_token_id] = 0
    return model.eval(), sorted({*found["missing_keys"], *(key for key, _, _ in found["mismatched_keys"])})


def _check_shapes(name: str, model: PreTrainedModel, wrong: Iterable[tuple[str, Any, Any]], new_head: bool) -> None:
    """See that weights have the shapes of the configuration, except those of a head that is replaced."""
    of_body = {key for key, _, _ in wrong if _outside_head(model, [key])}
    for key, given, wanted in sorted(wrong, key=lambda one: (one[0] not in of_body, one[0])):
        if key in of_body or not new_head:
            remedy = "correct it" if key in of_body else "correct its id2label: one name for each output"
            raise TutelageError(
                f"{key} of the model {name!r} is {list(given)} in its weights, but {list(wanted)} by its config.json; {remedy}"
            )


def _check_size(name: str, path: Path, config: Any, head: Head) -> None:
    """See that the weights can be those of the configuration, before room is made for them."""
    with torch.device("meta"):
        outline = untrained(name, config, head)
    body = sum(parameter.numel() for parameter in anatomy.base_of(outline).parameters())
    stored = sum(file.stat().st_size for file in weight_files(path))
    if body > stored + 1_000_000:  # one byte a weight, at least; a pooler may be new
        raise TutelageError(
            f"config.json of the model {name!r} describes {body:,} parameters, but its weights have {stored:,} bytes; correct "
            "config.json, or fetch the model again"
        )


def untrained(name: str, config: Any, head: Head) -> PreTrainedModel:
    """The network of a configuration with random weights, in evaluation mode.

    Raises:
        TutelageError: if there is no such network.
    """
    try:
        # from_config writes into the configuration that it is given
        config = fitted_config(copy.deepcopy(config), head)
        model: PreTrainedModel = model_class(head).from_config(config, dtype=torch.float32)
    except TutelageError:
        raise
    except Exception as error:  # impossible sizes end in any exception
        raise TutelageError(
            f"config.json of the model {name!r} cannot be used: {last_reason(error)}; correct it"
        ) from None
    return model.eval()


def sketched(name: str, head: Head = "classes", **labels: Any) -> tuple[PreTrainedModel, list[str]]:
    """As :func:`load_model`, but without the weights, which need not be there: for sizes, on the device ``meta``."""
    config = load_config(resolve(name))
    for key, value in labels.items():
        setattr(config, key, value)
    return untrained(name, config, head), []


def _from_pretrained(
    name: str, path: str, config: Any, head: Head, renamed: dict[str, str] | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        model, found = model_class(head).from_pretrained(
            path,
            config=copy.deepcopy(config),
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # judged by the caller
            **({} if renamed is None else {"key_mapping": renamed}),
        )
    except Exception as error:  # a damaged file can raise any exception of its parser
        raise TutelageError(
            f"cannot load the model {name!r}: {last_reason(error)}; fetch it again, or write it once more with save_pretrained"
        ) from None
    return model, found


def _outside_head(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Those of the weights that a new head does not bring along: all but the head and the pooler."""
    prefix = model.base_model_prefix
    within = f"{prefix}." if prefix and anatomy.base_of(model) is not model else ""
    heads = ("classifier.",) if not within else ()
    return sorted(n for n in names if n.startswith(within) and not n.startswith(heads) and "pooler" not in n)


def _prefix(lacking: Sequence[str], unused: Sequence[str], model: PreTrainedModel) -> str | None:
    """What stands before the names of weights that the model lacks, in a checkpoint written from within a wrapper."""
    found: Counter[str] = Counter()
    for wanted in lacking[:8]:
        short = wanted.removeprefix(f"{model.base_model_prefix}.")
        for ending in dict.fromkeys((wanted, short)):
            before = [one.removesuffix(ending) for one in unused if one.endswith(f".{ending}")]
            if before:
                found.update(before)
                break
    return max(found, key=lambda one: (found[one], -len(one))) if found else None


def _check_whole(
    name: str, model: PreTrainedModel, lacking: Sequence[str], prefix: str | None, found: dict[str, Any]
) -> None:
    """See that the checkpoint has all weights of the body, and none that the configuration has no place for."""
    unused = sorted(found["unexpected_keys"])
    if lora := [one for one in unused if "lora_" in one or ".base_layer." in one]:
        raise TutelageError(
            f"the weights of the model {name!r} are those of a LoRA that was not merged ({lora[0]}); merge it in peft with "
            "merge_and_unload() and save the result with save_pretrained"
        )
    if lacking:
        begins = f", and begin with {prefix!r}" if prefix else f"; they hold {unused[0]}" if unused else ""
        raise TutelageError(
            f"the weights of the model {name!r} are not those of its config.json, a {model.config.model_type}: they lack "
            f"{lacking[0]}{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}{begins}; correct config.json, or save the "
            "model itself with save_pretrained, not what wraps it"
        )
    beyond = [
        one for one in unused if re.search(r"(^|\.)(layers?|h|layer_groups)\.\d+\.", one) and "lm_head" not in one
    ]
    if beyond:
        raise TutelageError(
            f"the weights of the model {name!r} hold {len(beyond)} tensors that its config.json has no place for (such as "
            f"{beyond[0]}); correct config.json (its number of layers?)"
        )


def head_in(folder: str) -> Head:
    """The head of a checkpoint: that of its class, or vectors where a folder says how to pool them. (sentence-transformers writes a
    classifier as one module, without pooling.)"""
    if pools(Path(folder)):
        return "vectors"
    return anatomy.head_named((load_config(folder).architectures or [""])[0])


def model_class(head: Head) -> Any:
    """The class that makes and loads models with this head: an Auto class of transformers, for vectors that of this package."""
    return SentenceEncoder if head == "vectors" else auto_class(head)


def config_of(text: str) -> Any:
    """A configuration that this program has written as JSON."""
    tree = json.loads(text)
    return CONFIG_MAPPING[tree["model_type"]].from_dict(tree)


def network_of(config: Any, head: Head) -> PreTrainedModel:
    """A network of a configuration with random weights; no random numbers of the caller are used up."""
    with torch.random.fork_rng():
        model: PreTrainedModel = model_class(head).from_config(config, dtype=torch.float32)
    return model.eval()


def fitted_config(config: Any, head: Head) -> Any:
    """The configuration for a model with this head. For next words, attention becomes causal: a later token is the answer.

    Raises:
        TutelageError: if the family does not support the head.
    """
    causal = anatomy.family_of(config).causal
    if head == "masked_lm" and causal:
        raise TutelageError(
            f"a {config.model_type} is causal and cannot predict masked words; predict next words (`tutelage pretrain --causal`), "
            "or use another family"
        )
    if head == "classes" and not causal and anatomy.is_causal(config):
        raise TutelageError(
            f"a {config.model_type} classifies by its first token, which in a model of next words (is_decoder) sees no other; "
            "start from a model of masked words, or from a gpt2, which classifies by the last token"
        )
    if head != "causal_lm" or causal:
        return config
    if not anatomy.family_of(config).decoder:
        able = ", ".join(sorted(name for name, family in anatomy.FAMILIES.items() if family.decoder))
        raise TutelageError(
            f"a {config.model_type} sees later tokens and cannot predict the next word; predict masked words, or use one of "
            f"gpt2, {able}"
        )
    config.is_decoder = True
    return config
