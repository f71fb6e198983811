"""Settings are honoured or refused, never ignored."""

import dataclasses

import pytest

from quals_fast import DecodingConfig, ScoringConfig
from quals_fast.config import PRESETS, settings_of
from quals_fast.signature import must_match, signature


def test_defaults_are_the_published_settings():
    published = DecodingConfig()
    assert (published.rule, published.num_beams, published.num_beam_groups) == ("fairseq09", 60, 60)
    assert (published.diversity_penalty, published.length_penalty) == (0.5, 1.0)
    assert (published.min_length, published.max_length) == (8, 60)
    assert ScoringConfig() == ScoringConfig(
        summary_logprob="model", tokens="all", max_pairs=10, no_pairs_score=None
    )


REFUSED = [
    (DecodingConfig, {"rule": "sampling"}, "`rule` must be 'fairseq09' or 'hamming', but got 'sam"),
    (DecodingConfig, {"num_beams": 0}, "`num_beams` must be at least 1, but got 0"),
    (DecodingConfig, {"num_beam_groups": 0}, "`num_beam_groups` must be at least 1, but got 0"),
    (
        DecodingConfig,
        {"num_beams": 12, "num_beam_groups": 5},
        "must divide `num_beams`, but got 5 groups for 12 beams; use one of 1, 2, 3, 4, 6, 12",
    ),
    (DecodingConfig, {"diversity_penalty": -0.5}, "`diversity_penalty` must be a finite number of"),
    (DecodingConfig, {"diversity_penalty": float("nan")}, "finite number of at least 0, but got n"),
    (
        DecodingConfig,
        {"length_penalty": float("inf")},
        "number of at least -10 and of at most 10",
    ),
    (DecodingConfig, {"length_penalty": 400.0}, "of at least -10 and of at most 10, but got 400.0"),
    (DecodingConfig, {"min_length": -1}, "`min_length` must be at least 0, but got -1"),
    (
        DecodingConfig,
        {"min_length": 9, "max_length": 8},
        "`max_length` must be at least `min_length`, but got 8 with a `min_length` of 9",
    ),
    (ScoringConfig, {"summary_logprob": "clean"}, "`summary_logprob` must be 'model' or 'search',"),
    (ScoringConfig, {"tokens": "question"}, "`tokens` must be 'all' or 'answer', but got 'questi"),
    (ScoringConfig, {"max_pairs": 0}, "`max_pairs` must be at least 1, but got 0"),
    (
        ScoringConfig,
        {"no_pairs_score": float("nan")},
        "`no_pairs_score` must be a finite number, b",
    ),
]


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED)
def test_values_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DecodingConfig, {"num_beams": 6.0}, "`num_beams` must be an integer, but got float 6.0"),
        (DecodingConfig, {"min_length": True}, "`min_length` must be an integer, but got bool"),
        (DecodingConfig, {"diversity_penalty": "0.5"}, "must be a number, but got str '0.5'"),
        (DecodingConfig, {"beams": 60}, "unexpected keyword argument 'beams'"),
        (ScoringConfig, {"max_pairs": "all"}, "`max_pairs` must be an integer, but got str 'all'"),
    ],
)
def test_values_of_the_wrong_type_are_refused(kind, settings, message):
    with pytest.raises(TypeError, match=message):
        kind(**settings)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecodingConfig().num_beams = 3


BASE = {"model": "m", "digest": "d", "dtype": "float32", "backend": "eager"}
CHANGES = [
    (DecodingConfig(rule="hamming"), ScoringConfig(), {}),
    (DecodingConfig(num_beams=30, num_beam_groups=30), ScoringConfig(), {}),
    (DecodingConfig(num_beam_groups=30), ScoringConfig(), {}),
    (DecodingConfig(diversity_penalty=0.5000001), ScoringConfig(), {}),
    (DecodingConfig(length_penalty=0.9), ScoringConfig(), {}),
    (DecodingConfig(min_length=7), ScoringConfig(), {}),
    (DecodingConfig(max_length=61), ScoringConfig(), {}),
    (DecodingConfig(), ScoringConfig(summary_logprob="search"), {}),
    (DecodingConfig(), ScoringConfig(tokens="answer"), {}),
    (DecodingConfig(), ScoringConfig(max_pairs=11), {}),
    (DecodingConfig(), ScoringConfig(max_pairs=None), {}),
    (DecodingConfig(), ScoringConfig(no_pairs_score=-5), {}),
    *((DecodingConfig(), ScoringConfig(), {key: "other"}) for key in BASE),
]


def test_every_setting_changes_the_signature(monkeypatch):
    signatures = [signature(DecodingConfig(), ScoringConfig(), **BASE)]
    signatures += [signature(d, s, **{**BASE, **changed}) for d, s, changed in CHANGES]
    monkeypatch.setattr("quals_fast.signature.__version__", "9.9.9")
    signatures.append(signature(DecodingConfig(), ScoringConfig(), **BASE))
    assert len(set(signatures)) == len(signatures)
    for kind, i in ((DecodingConfig, 0), (ScoringConfig, 1)):
        settings = {field.name for field in dataclasses.fields(kind)}
        changed = {f for c in CHANGES for f in settings if getattr(c[i], f) != getattr(kind(), f)}
        assert changed == settings, "a new setting needs its row in CHANGES"


def test_rows_of_a_job_must_match_in_what_counts():
    both = [signature(DecodingConfig(), ScoringConfig(tokens=t), **BASE) for t in ("all", "answer")]
    assert len(set(map(must_match, both))) == 2


def test_the_signature_reads_as_documented():
    assert signature(DecodingConfig(), ScoringConfig(), **BASE).startswith(
        "quals|rule:fairseq09|beams:60/60|diversity:0.5|length:8-60|lp:1.0|summary:model|tokens:all|"
        "pairs:10|nopairs:nan|unknown:dropped|model:m@d|dtype:float32|backend:eager|kernels:none|version:"
    )


def test_presets():
    assert PRESETS["published"].decoding == DecodingConfig()
    assert PRESETS["published"].scoring == ScoringConfig()
    assert settings_of("fast").decoding.num_beams < 60
    with pytest.raises(ValueError, match="`preset` must be 'published' or 'fast', but got 'quick'"):
        settings_of("quick")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a|b", "a%7Cb"),
        ("a|version:9", "a%7Cversion:9"),
        ("a\nb\u2028", "a%0Ab%E2%80%A8"),
        ("a%7Cb", "a%257Cb"),
        ("bart à la carte", "bart à la carte"),
        ("a\udcff", "a%ED%B3%BF"),
    ],
)
def test_no_name_breaks_a_signature(name, expected):
    fields = signature(DecodingConfig(), ScoringConfig(), **BASE | {"model": name}).split("|")
    usual = signature(DecodingConfig(), ScoringConfig(), **BASE).split("|")
    assert len(fields) == len(usual)
    assert f"model:{expected}@{BASE['digest']}" in fields
