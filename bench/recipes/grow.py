"""Grow the bundled model to the size of BART-base or BART-large without changing its behaviour.

    python -m bench.grow --shape bart-base --rows 8

With random weights, a large model would be timed on made-up work: it generates no pairs, so
lengths, kept pairs and repeated prefixes would be invented. A grown model
(bench/recipes/net2net.py) does the real work at the real size. Its added tokens have a logit bias
of -10,000 and are listed in the config's ``masked_token_ids``: they are computed at every step, but
never generated. It computes nearly the same as the bundled model, which has the same number of
positions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.recipes.net2net import Growth, Statistics, deepen, widen
from bench.recipes.t5 import SHAPES, write_t5
from bench.recipes.tiny import write_tiny
from bench.shared.common import EXAMPLES, load_pairs, texts_of
from bench.shared.options import EVERY_MODEL, TINY, command_line
from bench.shared.published import PublishedPipeline
from quals_fast import QualsScorer
from quals_fast.models.checkpoint import sha256
from quals_fast.models.loading import model_folder, read_weights

NEVER = -1e4  # logit bias of tokens that were added
STATISTICS_ROWS = 4  # example summaries whose hidden states the added layers are fitted to

GROWTHS = {
    "bart-base": Growth(d_model=768, heads=12, ffn=3072, encoder_after=(), decoder_after=(1,) * 3),
    "bart-large": Growth(
        d_model=1024, heads=16, ffn=4096, encoder_after=(0, 1, 2, 3, 4, 4), decoder_after=(1,) * 9
    ),
}


def folder_of(name: str) -> Path:
    """Return the folder of a model by the benchmarks' names; make it if it is not there yet.

    Models that are made lie in ``$XDG_CACHE_HOME/quals_fast/bench``, under a key of what they are
    made of.
    """
    if name == "qagen-mini":
        return model_folder(name)
    if name == TINY:
        texts = [text for pair in load_pairs([EXAMPLES]) for text in (pair.document, pair.summary)]
        parts = [EXAMPLES, Path(__file__).with_name("tiny.py")]
        return cached(name, parts, lambda target: write_tiny(texts, target))
    source = model_folder("qagen-mini")
    if name in SHAPES:
        parts = [source / "tokenizer.json", Path(__file__).with_name("t5.py")]
        vary = name == "t5-small"
        return cached(name, parts, lambda target: write_t5(SHAPES[name], target, words_vary=vary))
    if name not in GROWTHS:
        known = ", ".join((*EVERY_MODEL, *SHAPES))
        raise ValueError(f"`model` must be one of {known}, but got {name!r}")
    parts = [source / "SHA256SUMS", Path(__file__), Path(__file__).with_name("net2net.py")]
    return cached(name, parts, lambda target: write(source, GROWTHS[name], target))


def cached(name: str, parts: list[Path], make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; make it if it is not there.

    Args:
        name: first part of the folder's name.
        parts: files that the content depends on; the folder's name ends with their hash.
        make: fills a folder that it is given and that does not exist yet.
    """
    key = hashlib.sha256("".join(map(sha256, parts)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "quals_fast" / "bench" / f"{name}-{key}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / name
            make(made)
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was sooner
                    raise
    return target


def write(source: Path, growth: Growth, target: Path) -> None:
    """Grow the model of one folder into another."""
    config: dict[str, Any] = json.loads((source / "config.json").read_text("utf-8"))
    weights = widen(read_weights(source), config, growth)
    statistics = hidden_statistics(source)
    weights = deepen(weights, "encoder", growth.encoder_after, config, growth, statistics)
    weights = deepen(weights, "decoder", growth.decoder_after, config, growth, statistics)
    bias = torch.zeros(1, growth.vocab_size)
    bias[:, config["vocab_size"] :] = NEVER
    weights["final_logits_bias"] = bias
    target.mkdir(parents=True)
    save_file({n: w.contiguous() for n, w in weights.items()}, target / "model.safetensors")
    for part, added in (("encoder", growth.encoder_after), ("decoder", growth.decoder_after)):
        config[f"{part}_layers"] += len(added)
        config |= {f"{part}_attention_heads": growth.heads, f"{part}_ffn_dim": growth.ffn}
    config |= {
        "masked_token_ids": list(range(config["vocab_size"], growth.vocab_size)),
        "vocab_size": growth.vocab_size,
        "d_model": growth.d_model,
        "max_position_embeddings": growth.positions,
        "max_source_tokens": growth.positions,
        "dtype": "float32",
    }
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copy(source / "generation_config.json", target)
    shutil.copy(source / "tokenizer.json", target)


@torch.inference_mode()
def hidden_statistics(source: Path) -> Statistics:
    """Return mean and standard deviation of each layer's output, averaged over real tokens."""
    published = PublishedPipeline(source)
    start = published.conventions.decoder_start_token_id
    summaries = [pair.summary for pair in load_pairs([EXAMPLES], STATISTICS_ROWS)]
    layers: dict[str, list[list[Tensor]]] = {"encoder": [], "decoder": []}
    for text, hypotheses in zip(
        published.tokenizer.encode(summaries), published.generate(summaries), strict=True
    ):
        for hypothesis in hypotheses[::10]:
            output = published.network(
                input_ids=torch.tensor([text.input_ids]),
                decoder_input_ids=torch.tensor([[start, *hypothesis.token_ids[:-1]]]),
                output_hidden_states=True,
            )
            for part, states in layers.items():
                states.append([x[0] for x in output[f"{part}_hidden_states"][1:]])
    return {
        part: [
            (float(x.mean(1).mean()), float(x.std(1, correction=0).mean()))
            for x in (torch.cat(tokens) for tokens in zip(*states, strict=True))
        ]
        for part, states in layers.items()
    }


def compare(name: str, rows: int) -> dict[str, Any]:
    """Compare a grown model with the bundled one on examples, in float32."""
    pairs = load_pairs([EXAMPLES])[:rows]
    texts = texts_of(pairs)
    results = {}
    for model in ("qagen-mini", name):
        scorer = QualsScorer.from_pretrained(folder_of(model), device="cpu", dtype="float32")
        results[model] = scorer.generate(texts[1]), list(scorer.score(*texts).flat())
    (old_sequences, old), (new_sequences, new) = results["qagen-mini"], results[name]
    ids = [
        [{h.token_ids for h in one} for one in every] for every in (old_sequences, new_sequences)
    ]
    deltas = [abs(a.score - b.score) for a, b in zip(old, new, strict=True) if a.pairs and b.pairs]
    result: dict[str, Any] = {
        "rows": len(pairs),
        "identical_sequences": sum(len(a & b) for a, b in zip(*ids, strict=True))
        / sum(map(len, ids[0])),
        "mean_abs_delta": sum(deltas) / len(deltas),
        "max_abs_delta": max(deltas),
    }
    for which, sequences, scores in (("old", old_sequences, old), ("new", new_sequences, new)):
        lengths = [len(h.token_ids) for one in sequences for h in one]
        result[f"kept_pairs_{which}"] = sum(len(score.pairs) for score in scores) / len(pairs)
        result[f"length_{which}"] = sum(lengths) / len(lengths)
        result[f"mean_score_{which}"] = sum(s.score for s in scores if s.pairs) / len(pairs)
    return result


def main() -> None:
    """Grow a model and say how it behaves."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--shape", choices=[*sorted(GROWTHS), TINY], default="bart-base", help="size to grow to"
    )
    parser.add_argument(
        "--rows", type=int, default=8, help="rows to compare both models on; 0 only makes the model"
    )
    arguments = parser.parse_args()
    print(folder_of(arguments.shape))
    if arguments.rows:
        print(json.dumps(compare(arguments.shape, arguments.rows)))


if __name__ == "__main__":
    main()
