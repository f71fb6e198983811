"""Rows of files: read, scored in windows, written."""
