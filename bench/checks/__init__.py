"""Checks of agreement: with the reference, between number types, of stored models."""
