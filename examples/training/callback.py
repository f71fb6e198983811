"""QUALS of generated summaries at every evaluation of a Seq2SeqTrainer, in the background.

python examples/training/callback.py --model YOUR_MODEL
"""

import tempfile

from small_models import arguments, load_rows, summariser, tokenizer_of
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from quals_fast import QualsScorer
from quals_fast.training import BackgroundScorer, QualsCallback
from quals_fast.training.adapters.rows import CACHE_BYTES


def main() -> None:
    """Train two steps with an evaluation after each."""
    given = arguments(__doc__).parse_args()
    documents, summaries = load_rows(given.rows)
    tokenizer, model = tokenizer_of(given.model), summariser(given.model)
    sources = tokenizer(documents, truncation=True).input_ids
    targets = tokenizer(text_target=summaries, truncation=True).input_ids
    rows = [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]
    scorer = QualsScorer.from_pretrained(given.scorer, cache_bytes=CACHE_BYTES)
    with tempfile.TemporaryDirectory() as folder, BackgroundScorer(scorer) as background:
        trainer = Seq2SeqTrainer(
            model,
            Seq2SeqTrainingArguments(
                output_dir=folder,
                max_steps=2,
                eval_strategy="steps",
                eval_steps=1,
                save_strategy="no",
                report_to=[],
            ),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model),
            processing_class=tokenizer,
        )
        # A random model would end at once.
        generate = {"min_new_tokens": 12, "max_new_tokens": 24}
        trainer.add_callback(QualsCallback(trainer, documents, background, generate=generate))
        trainer.train()
    for log in trainer.state.log_history:
        print({key: value for key, value in log.items() if "quals" in key})
    print(scorer.cache_stats)


if __name__ == "__main__":
    main()
