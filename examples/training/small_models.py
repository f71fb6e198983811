"""What the examples train: a model that is named, or a small random one with the bundled words."""

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from quals_fast.models.loading import model_folder

PAIRS = Path(__file__).parent.parent / "pairs.jsonl"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all examples take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="to train; a small random one without")
    parser.add_argument("--scorer", default="qagen-mini", help="the bundled model, or a folder")
    parser.add_argument("--rows", type=int, default=4, help="of examples/pairs.jsonl")
    return parser


def load_rows(count: int) -> tuple[list[str], list[str]]:
    """Return documents with their faithful summaries."""
    rows = [json.loads(line) for line in PAIRS.read_text("utf-8").splitlines()]
    faithful = [row for row in rows if row["kind"] == "faithful"][:count]
    return [row["document"] for row in faithful], [row["summary"] for row in faithful]


def tokenizer_of(model: str | None) -> Any:
    """Load the model's tokenizer, or the bundled words."""
    if model is not None:
        return AutoTokenizer.from_pretrained(model)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(model_folder("qagen-mini") / "tokenizer.json"),
        pad_token="[PAD]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=256,
    )


def summariser(model: str | None) -> Any:
    """Load a sequence-to-sequence model, or make a random one."""
    if model is not None:
        return AutoModelForSeq2SeqLM.from_pretrained(model)
    words = tokenizer_of(None)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(words),
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            max_position_embeddings=256,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            decoder_start_token_id=words.eos_token_id,
            forced_eos_token_id=None,
        )
    )


def language_model(model: str | None) -> Any:
    """Load a causal language model, or make a random one."""
    if model is not None:
        return AutoModelForCausalLM.from_pretrained(model)
    words = tokenizer_of(None)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )
