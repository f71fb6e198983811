"""The human study: people compare the summaries of two systems without knowing which is whose."""
