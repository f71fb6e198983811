"""What would models of full size cost? Parameters, memory and work, counted and not measured.

    python -m bench.model_costs [--data FILE] [--rows 20]

The lengths are those of the `long` workload as the bundled model scores it: tokens of documents and
summaries, steps of the search, tokens of the kept pairs. Each model of `CONFIGS` is then held to
the same work, by the formulas of bench/floor.py; documents are cut at the length that it reads. No
weights are made. A page turns the work into time, by the rates that other benchmarks measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.floor import Work, count, sizes_of, works_of
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import finish, texts_of
from bench.shared.options import command_line
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload
from quals_fast.config import DecodingConfig
from quals_fast.models.checkpoint import check_config_of_family
from quals_fast.models.loading import network_of

# As their config.json on the Hugging Face hub says; Conventions are made up and change nothing.
_T5 = {
    "model_type": "t5", "vocab_size": 32128, "d_kv": 64, "pad_token_id": 0, "eos_token_id": 1,
    "sep_token_id": 32100, "max_source_tokens": 512,
}  # fmt: skip
_FLAN = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART = {
    "model_type": "bart", "vocab_size": 50265, "max_position_embeddings": 1024, "bos_token_id": 0,
    "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 50259,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "BART-large": {
        **_BART, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12,
        "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
    },
    "T5-base": {**_T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "T5-large": {**_T5, "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "FLAN-T5-base": {**_FLAN, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "FLAN-T5-large": {**_FLAN, "d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "FLAN-T5-XL": {**_FLAN, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}  # fmt: skip


def costs(config: dict[str, Any], works: Sequence[Work]) -> dict[str, Any]:
    """Count what a model costs.

    Args:
        config: as in `CONFIGS`.
        works: what the rows ask for, documents uncut.

    Returns:
        Parameters; numbers of the LM head's weight; numbers that are kept of one token for
        attention, keys and values of all decoder layers; GFLOPs a pair by stage; tokens of one
        search: all that its beams decode, and its source.
    """
    shape, conventions = check_config_of_family(Path(), config)
    network = network_of(shape)
    limit, beams = conventions.max_source_tokens, DecodingConfig().num_beams
    works = [work._replace(document=min(work.document, limit)) for work in works]
    sizes = sizes_of(config)
    stages = count(config, works, beams, 1)
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "lm_head": network.lm_head_weight.numel(),
        "kept_of_a_token": 2 * sizes.decoder_layers * sizes.a,
        "gflop_a_pair": {name: s.flops / len(works) / 1e9 for name, s in stages.items()},
        "tokens_of_a_search": max(beams * work.steps + work.summary for work in works),
    }


def lengths(works: Sequence[Work]) -> dict[str, float]:
    """Return mean lengths a pair, in tokens: document, summary, steps, pairs and their tokens."""
    totals = {
        "document": sum(work.document for work in works),
        "summary": sum(work.summary for work in works),
        "steps": sum(work.steps for work in works),
        "pairs": sum(len(work.pairs) for work in works),
        "tokens_of_pairs": sum(sum(work.pairs) for work in works),
    }
    return {name: total / len(works) for name, total in totals.items()}


def summarise(works: Sequence[Work], configs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the lengths and each model's costs."""
    models = {name: costs(config, works) for name, config in configs.items()}
    return {"lengths": lengths(works), "models": models}


def main() -> None:
    """Count and write bench/results/model_costs.json."""
    arguments = command_line(__doc__, data=None, rows=20).parse_args()
    pairs = load_workload("long", arguments.data, arguments.rows)
    arm = EngineArm(folder_of(MODEL), "float32")
    arm.score(*texts_of(pairs))
    counted = summarise(works_of(arm, pairs), CONFIGS)
    result = {"workload": "long", "rows": len(pairs), **counted}
    finish("model_costs", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
