"""What scores are worth: the claim of 55x, the bundled model, ConSeq."""
