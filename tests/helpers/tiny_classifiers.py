"""A small BERT that is trained to tell whether a sentence says what a document says."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import tiny_models
import torch

BATCH, STEPS = 32, 150
WHO, DID, WHAT = ("queen", "king"), ("won", "lost"), ("bridge", "tower")
TOKENS = [*tiny_models.SPECIAL, *tiny_models.WORDS, "[MASK]"]
CONFIG = {
    "vocab_size": len(TOKENS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,  # for a network this small
}
LABELS = ("CORRECT", "INCORRECT")
DOCUMENT = "queen won the bridge ."
SUMMARY = "queen won the bridge . queen lost the bridge ."


def example(rng: random.Random) -> tuple[str, str, int]:
    """Return a document, a sentence that says the same or not, and the index of its label."""
    fact = [rng.choice(WHO), rng.choice(DID), "the", rng.choice(WHAT), "."]
    sentence = list(fact)
    if is_wrong := rng.random() < 0.5:
        sentence[1] = rng.choice([did for did in DID if did != fact[1]])
    return " ".join(fact), " ".join(sentence), int(is_wrong)


@cache
def trained_bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    rng = random.Random(0)
    bert = BertForSequenceClassification(BertConfig(**CONFIG, num_labels=2)).train()
    number = {word: i for i, word in enumerate(TOKENS)}
    segments = torch.tensor([[0] * 7 + [1] * 6] * BATCH)
    optimiser = torch.optim.AdamW(bert.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    for _ in range(STEPS):
        examples = [example(rng) for _ in range(BATCH)]
        rows = [f"[CLS] {d} [SEP] {s} [SEP]".split() for d, s, _ in examples]
        ids = torch.tensor([[number[word] for word in row] for row in rows])
        labels = torch.tensor([label for *_, label in examples])
        bert(input_ids=ids, token_type_ids=segments, labels=labels).loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return bert.eval()


def write_classifier(folder: Path, **changes: Any) -> Path:
    """Write the trained one as transformers does; `changes` are of its config."""
    from transformers import BertTokenizer

    bert = copy.deepcopy(trained_bert())
    bert.config.id2label = dict(enumerate(LABELS))
    bert.config.label2id = {label: i for i, label in enumerate(LABELS)}
    bert.config.update(changes)
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    return folder


def write_factcc(folder: Path) -> Path:
    """Write it as FactCC's authors publish theirs: no labels, no family, no safetensors."""
    folder.mkdir(parents=True)
    torch.save(trained_bert().state_dict(), folder / "pytorch_model.bin")
    old = {"finetuning_task": "factcc_generated", "num_labels": 2, "pruned_heads": {}}
    (folder / "config.json").write_text(json.dumps(CONFIG | old))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return folder
