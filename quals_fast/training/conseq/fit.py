"""The last stage of a ConSeq run: train on the chosen pairs, from the last complete checkpoint."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainingArguments, TrainerCallback

from quals_fast.training.adapters.summaries import longest_text
from quals_fast.training.conseq.config import ConSeqConfig
from quals_fast.training.conseq.stages import OnProgress, check_header, digest, write_whole
from quals_fast.training.conseq.trainer import ConSeqCollator, ConSeqTrainer, encode_rows

_OF_TRAINING = (
    "learning_rate", "epochs", "batch_size", "label_smoothing", "max_source_tokens",
    "max_target_tokens", "seed",
)  # fmt: skip


def fit(
    model: Any,
    tokenizer: Any,
    pairs: list[tuple[str, str, str]],
    folder: Path,
    config: ConSeqConfig,
    model_digest: object,
    on_progress: OnProgress,
) -> float:
    """Train on the pairs, resuming from the last complete checkpoint; return the mean loss."""
    header = {
        "model": model_digest,
        "pairs": digest(pairs),
        **{name: getattr(config, name) for name in _OF_TRAINING},
    }
    record, target = folder / f"training_{config.by}.json", folder / f"model_{config.by}"
    if record.is_file():
        check_header(record, json.loads(record.read_text("utf-8")), header)
        if target.is_dir():
            return math.nan
    write_whole(record, json.dumps(header))
    checkpoints = folder / f"checkpoints_{config.by}"
    data = encode_rows(
        tokenizer,
        *zip(*pairs, strict=True),
        max_source_tokens=longest_text(model, tokenizer, config.max_source_tokens),
        max_target_tokens=longest_text(model, tokenizer, config.max_target_tokens),
    )
    trainer = ConSeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            output_dir=str(checkpoints),
            learning_rate=config.learning_rate,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            label_smoothing_factor=config.label_smoothing,
            save_steps=config.save_steps,
            save_total_limit=2,
            seed=config.seed,
            report_to=[],
            disable_tqdm=True,
            logging_steps=10,
            use_cpu=model.device.type == "cpu",
        ),
        train_dataset=data,
        data_collator=ConSeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[_Progress(on_progress)],
    )
    loss = trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints)).training_loss
    part = folder / f"model_{config.by}.part"
    trainer.save_model(str(part))
    os.replace(part, target)
    return float(loss)


class _Progress(TrainerCallback):  # type: ignore[misc]
    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_progress("training", state.global_step, state.max_steps)


def _last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint: one with its state, which is written last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)
