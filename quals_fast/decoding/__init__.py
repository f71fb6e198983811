"""Diverse beam search: tensors in, tensors out."""
