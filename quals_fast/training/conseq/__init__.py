"""ConSeq: contrastive learning from sampled summaries that QUALS has judged.

Source: docs/semantics.md 1.5; arXiv 2105.04623, section 4; amazon-science/fact-check-summarization.
"""
