"""Train a small classifier that says whether a document supports a sentence, by FactCC's recipe.

    python -m bench.classifier --data ../shared/data --run runs/classifier --minutes 40

Writes a folder of transformers, RUN/model, with the labels CORRECT and INCORRECT, and
bench/results/classifier.json. The same command goes on after an interruption.

The recipe is that of Kryscinski et al. 2020 (arXiv 1910.12840; github.com/salesforce/factCC, commit
23ec0ac), at a small scale. A correct claim is a sentence of a news document; one rule makes it
incorrect: another name, number or date of the document, another pronoun, a negation. Half of the
pairs have words left out or doubled. As FactCCX, it also learns which words were changed. What
differs:

- the network: the reference QAGS's answering network (BERT of MiniLM's size) instead of BERT-base;
- some thousands of pairs instead of a million, most of them on a part of the document;
- no translation there and back: sentences of CNN/DM's human summaries stand in for it;
- a name is swapped for one of its own kind, a person for a person.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.recipes.classifier.claims import JUDGED, judged_file, load_spacy, stored_claims
from bench.recipes.classifier.measuring import on_claims, on_summaries
from bench.recipes.classifier.training import ClaimTask, new_network, save
from bench.recipes.qags_training.loop import Recipe, train
from bench.shared.common import QAGS_MODELS, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.weights import bundled
from quals_fast.models.checkpoint import sha256
from quals_fast.qags.networks import ANSWERING


def main() -> None:
    """Find claims, train, measure."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data")
    parser.add_argument("--run", type=Path, required=True, help="folder for claims and model")
    parser.add_argument("--documents", type=int, default=1200, help="documents to take claims from")
    parser.add_argument("--examples", type=int, default=5000, help="pairs of claims to train on")
    parser.add_argument("--minutes", type=float, help="stop training after this many minutes")
    a = parser.parse_args()
    nlp = load_spacy()
    found = stored_claims(a.run / "claims.json", a.data, a.documents, nlp)
    held_out = len(found) // 10
    folder = a.run / "model"
    if not (folder / "config.json").is_file():
        network, tokenizer = new_network(QAGS_MODELS / ANSWERING)
        task = ClaimTask([one for claims in found[held_out:] for one in claims], tokenizer, network)
        recipe = Recipe(
            examples=a.examples,
            minutes=a.minutes,
            batch_size=8,
            learning_rate=1.5e-4,
            seed=1,
            threads=1,
        )
        train(task, recipe, a.run)
        save(network, tokenizer, folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    checkpoint = torch.load(a.run / "checkpoint.pt", weights_only=True)
    result: dict[str, Any] = {
        "trained_on": {
            "documents": len(found) - held_out,
            "claims": sum(map(len, found[held_out:])),
            "pairs_seen": checkpoint["done"],
            "recipe": checkpoint["recipe"],
        },
        "held_out": {"documents": held_out}
        | on_claims(network, tokenizer, [claims[-1:] for claims in found[:held_out]]),
        "judged": {},
    }
    weights = {
        "classifier": {
            "digest": sha256(folder / "model.safetensors")[:12],
            "recipe": "trained by bench.classifier",
            "from": bundled(ANSWERING),
        }
    }
    for name in JUDGED:
        rows = load_pairs([judged_file(a.data, name)])
        if name.startswith("qags"):
            rows = rows[1::2]  # even lines of the file; the odd ones are for choices
        result["judged"][name] = on_summaries(network, tokenizer, rows, nlp)
        finish("classifier", result, weights=weights)


if __name__ == "__main__":
    main()
