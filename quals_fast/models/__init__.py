"""Networks that generate question-answer pairs, their checkpoints and tokenizers."""
