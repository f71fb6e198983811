"""Fine-tune a question-answer generator: `quals-fast train-qagen`. Needs the extra ``train``."""
