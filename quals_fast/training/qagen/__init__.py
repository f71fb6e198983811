"""Fine-tune a BART to generate question-answer pairs: `quals-fast train-qagen`."""
