"""Train on pairs of summaries with Hugging Face's Seq2SeqTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Seq2SeqTrainer

from quals_fast.training.conseq.loss import IGNORED, conseq_loss


class ConSeqTrainer(Seq2SeqTrainer):  # type: ignore[misc]
    """Hugging Face ``Seq2SeqTrainer`` with the ConSeq loss.

    The loss of a batch with ``labels`` and ``negative_labels`` is `conseq_loss`, with the
    ``label_smoothing_factor`` of the training arguments; the source is encoded once for both
    summaries. A batch without ``negative_labels``, as in evaluation, gets the usual loss.

    `run_conseq` uses this trainer. If you use it directly, make rows with
    ``quals_fast.training.conseq.trainer.encode_rows`` and batches with ``ConSeqCollator`` from the
    same module.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The loss is a mean over a batch's tokens: the Trainer divides by the accumulated batches.
        self.loss_is_scaled_for_ga = False
        self.model_accepts_loss_kwargs = False  # else the usual loss would not be a mean

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the negatives, which are not arguments of the model's `forward`."""
        super()._set_signature_columns_if_needed()
        if "negative_labels" not in self._signature_columns:
            self._signature_columns.append("negative_labels")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, optionally with the outputs for its positives."""
        if "negative_labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        network = self.accelerator.unwrap_model(model)
        mask, labels = inputs["attention_mask"], inputs["labels"]
        negative_labels = inputs["negative_labels"]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            decoder_input_ids=network.prepare_decoder_input_ids_from_labels(labels),
        )
        negative = model(
            encoder_outputs=(outputs.encoder_last_hidden_state,),
            attention_mask=mask,
            decoder_input_ids=network.prepare_decoder_input_ids_from_labels(negative_labels),
        )
        loss = conseq_loss(
            outputs.logits,
            labels,
            negative.logits,
            negative_labels,
            label_smoothing=self.args.label_smoothing_factor,
        )
        return (loss, outputs) if return_outputs else loss


class ConSeqCollator:
    """Pads rows from `encode_rows` to a batch.

    Args:
        pad_token_id: padding token of the summariser.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._padding = {"input_ids": pad_token_id, "attention_mask": 0}

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Return tensors ``(B, ...)`` by the rows' keys; labels are padded with -100."""
        return {key: _pad([row[key] for row in rows], self._padding.get(key, IGNORED))
                for key in rows[0]}  # fmt: skip


def encode_rows(
    tokenizer: Any,
    documents: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[str],
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> list[dict[str, list[int]]]:
    """Tokenise documents with their two summaries.

    Args:
        tokenizer: of the summariser.
        documents: texts.
        positives: S+ of each document.
        negatives: S- of each document.
        max_source_tokens: truncate documents to this many tokens.
        max_target_tokens: truncate summaries to this many tokens.

    Returns:
        Rows with ``input_ids``, ``attention_mask``, ``labels`` and ``negative_labels``.
    """
    sources = tokenizer(list(documents), truncation=True, max_length=max_source_tokens)
    labels, negative_labels = (
        tokenizer(text_target=list(texts), truncation=True, max_length=max_target_tokens).input_ids
        for texts in (positives, negatives)
    )
    columns = {
        "input_ids": sources.input_ids,
        "attention_mask": sources.attention_mask,
        "labels": labels,
        "negative_labels": negative_labels,
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _pad(sequences: list[list[int]], value: int) -> Tensor:
    tensors = [torch.tensor(sequence) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
