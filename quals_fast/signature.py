"""One line with everything that a score depends on, so that scores can be cited and compared."""

from __future__ import annotations

from urllib.parse import quote

from quals_fast import __version__
from quals_fast.config import DecodingConfig, ScoringConfig


def signature(
    decoding: DecodingConfig,
    scoring: ScoringConfig,
    *,
    model: str,
    digest: str,
    dtype: str,
    backend: str,
    kernels: str = "none",
    calibration: str | None = None,
) -> str:
    """Return the signature: ``quals|rule:...|...|version:...``.

    Args:
        decoding: settings of the search.
        scoring: settings of the score.
        model: name of the checkpoint.
        digest: short hash of its weights, config and tokenizer.
        dtype: precision of the network.
        backend: backend that ran.
        kernels: names of the compiled kernels that ran.
        calibration: short hash of the file that gives probabilities, which without one is left out.
    """
    d, s = decoding, scoring
    missing = "nan" if s.no_pairs_score is None else f"{float(s.no_pairs_score)!r}"
    parts = {
        "rule": d.rule,
        "beams": f"{d.num_beams}/{d.num_beam_groups}",
        "diversity": repr(float(d.diversity_penalty)),
        "length": f"{d.min_length}-{d.max_length}",
        "lp": repr(float(d.length_penalty)),
        "summary": s.summary_logprob,
        "tokens": s.tokens,
        "pairs": "all" if s.max_pairs is None else str(s.max_pairs),
        "nopairs": missing,
        "unknown": "dropped",  # pairs whose answer holds an unknown token
        "model": f"{escaped(model)}@{digest}",
        "dtype": dtype,
        "backend": backend,
        "kernels": kernels,
        **({} if calibration is None else {"calibration": calibration}),
        "version": __version__,
    }
    return "|".join(["quals", *(f"{key}:{value}" for key, value in parts.items())])


def parts_of(signature: str) -> dict[str, str]:
    """Return the parts of a signature by their names, without the metric."""
    return dict(part.split(":", 1) for part in signature.split("|")[1:] if ":" in part)


def has_probability(signature: str) -> bool:
    """Return whether rows with a signature have a probability, which is None without a score."""
    return "calibration" in parts_of(signature)


def must_match(signature: str) -> str:
    """Return the part of a signature that must be equal wherever rows of one job are scored.

    That is on resume, and on all machines that share the job. It has settings, model, precision and
    engine. It has no versions, neither of this program nor of what a machine has installed; each
    row carries its whole signature.
    """
    return "|".join(part for part in signature.split("|") if not part.startswith("version:"))


def escaped(name: str) -> str:
    """Percent-encode what a signature cannot hold in a folder's name: ``|``, line breaks, ..."""
    return "".join(
        quote(c, safe="", errors="surrogatepass") if c in "|%" or not c.isprintable() else c
        for c in name
    )
