"""QUALS as the reward of TRL's GRPOTrainer.

python examples/training/reward.py --model YOUR_MODEL

Without a model a random one is trained for two steps, which shows that it runs and nothing else.
"""

import tempfile

import torch
from datasets import Dataset
from small_models import arguments, language_model, load_rows, tokenizer_of
from trl import GRPOConfig, GRPOTrainer

from quals_fast.training import QualsReward


def main() -> None:
    """Train on prompts that end with a document; its column goes to the reward."""
    given = arguments(__doc__).parse_args()
    documents, _ = load_rows(given.rows)
    prompts = [f"Summarise in one sentence: {' '.join(d.split()[:150])}" for d in documents]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            language_model(given.model),
            reward_funcs=QualsReward(given.scorer, document_column="article"),
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=4,
                num_generations=2,
                max_completion_length=24,
                max_steps=2,
                logging_steps=1,
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts, "article": documents}),
            processing_class=tokenizer_of(given.model),
        )
        trainer.train()
    for log in trainer.state.log_history:
        print({key: value for key, value in log.items() if "quals" in key})


if __name__ == "__main__":
    main()
