"""One short file per published method: the seven choices and nothing else."""

from collections.abc import Callable

from tutelage.methods.alp_kd import alp_kd
from tutelage.methods.autoskdbert import autoskdbert, ensemble, mt_bert, skdbert
from tutelage.methods.bert_emd import bert_emd
from tutelage.methods.bilstm import bilstm, bilstm_reference
from tutelage.methods.ckd import ckd
from tutelage.methods.cofi import cofi
from tutelage.methods.compact import compact, compact_int8
from tutelage.methods.deep_compression import deep_compression
from tutelage.methods.distilbert import distilbert, distilbert_general
from tutelage.methods.dynabert import dynabert
from tutelage.methods.finetune import finetune
from tutelage.methods.fitnets import fitnets
from tutelage.methods.kd import kd
from tutelage.methods.logits_mse import logits_mse
from tutelage.methods.minilm import minilm, minilm_assistant
from tutelage.methods.minilmv2 import minilmv2
from tutelage.methods.minimum_knowledge import minimum_knowledge, minimum_knowledge_reference
from tutelage.methods.mobilebert import mobilebert
from tutelage.methods.pea_kd import pea_kd
from tutelage.methods.pkd import pkd, pkd_reference
from tutelage.methods.pretrain import pretrain
from tutelage.methods.rail_kd import rail_kd
from tutelage.methods.rosita import rosita
from tutelage.methods.similarity import similarity
from tutelage.methods.takd import takd
from tutelage.methods.ted import ted
from tutelage.methods.tinybert import tinybert, tinybert_reference
from tutelage.methods.wid import wid, wid11, wid55, wid_causal, wid_kd, wid_reference
from tutelage.recipes.recipe import Recipe

METHODS: dict[str, Callable[[], Recipe]] = {
    method.__name__: method
    for method in (
        finetune,
        pretrain,
        compact,
        compact_int8,
        kd,
        takd,
        deep_compression,
        cofi,
        logits_mse,
        similarity,
        fitnets,
        bilstm,
        bilstm_reference,
        pkd,
        pkd_reference,
        alp_kd,
        ckd,
        rail_kd,
        ted,
        distilbert,
        distilbert_general,
        tinybert,
        tinybert_reference,
        bert_emd,
        minilm,
        minilm_assistant,
        minilmv2,
        mobilebert,
        minimum_knowledge,
        minimum_knowledge_reference,
        dynabert,
        rosita,
        pea_kd,
        wid,
        wid55,
        wid11,
        wid_causal,
        wid_kd,
        wid_reference,
        autoskdbert,
        skdbert,
        ensemble,
        mt_bert,
    )
}
"""Every method by its name, with its defaults."""
