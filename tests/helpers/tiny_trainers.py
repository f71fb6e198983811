"""Models of a few thousand parameters for the trainers of transformers and TRL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT, "who was the queen ?"]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river", TEXT]


def tokenizer() -> PreTrainedTokenizerFast:
    """The words of `tiny_models`, as transformers takes them; sources end with [SEP]."""
    from tokenizers.processors import TemplateProcessing

    words = tiny_models.wordpiece_tokenizer()
    words.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 4)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=64,
    )


def summariser(seed: int = 0) -> BartForConditionalGeneration:
    """A random sequence-to-sequence model whose summaries are words of `TEXT`, three or more."""
    set_seed(seed)
    names = ("d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads",
             "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
             "max_position_embeddings", "pad_token_id", "eos_token_id", "decoder_start_token_id",
             "bos_token_id")  # fmt: skip
    config = BartConfig(
        vocab_size=len(tokenizer()),
        forced_eos_token_id=None,
        dropout=0.1,
        **{name: tiny_models.CONFIG[name] for name in names},
    )
    model = BartForConditionalGeneration(config)
    model.model.shared.weight.data.normal_(0, 0.5)  # else its distributions are flat
    model.final_logits_bias += -1e4
    model.final_logits_bias[:, tokenizer()(TEXT)["input_ids"]] = 0.0
    model.generation_config.min_new_tokens = 3
    return model


def causal_model(seed: int = 0) -> LlamaForCausalLM:
    """A random language model."""
    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=3,
            eos_token_id=4,
        )
    )


def seq2seq_trainer(
    folder: Path, compute_metrics: Callable[..., Any] | None = None, **settings: Any
) -> Seq2SeqTrainer:
    """A trainer of `summariser` on four pairs, which evaluates after each of two steps."""
    model, words = summariser(), tokenizer()
    sources, labels = (words(texts)["input_ids"] for texts in (DOCUMENTS, SUMMARIES))
    rows = [{"input_ids": s, "labels": t} for s, t in zip(sources, labels, strict=True)]
    defaults = {
        "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        "per_device_train_batch_size": 2, "generation_max_length": 10,
    }  # fmt: skip
    return Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(output_dir=str(folder), **defaults | settings),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(words, model),
        processing_class=words,
        compute_metrics=compute_metrics,
    )
