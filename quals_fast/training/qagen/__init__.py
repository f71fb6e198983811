"""Fine-tune a BART or T5 to generate question-answer pairs: `quals-fast train-qagen`."""
