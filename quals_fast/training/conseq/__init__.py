"""ConSeq: contrastive learning from sampled summaries that QUALS has judged (SEMANTICS 1.5).

Source: arXiv 2105.04623, section 4, and amazon-science/fact-check-summarization.
"""
