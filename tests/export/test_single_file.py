"""One graph scores as the torch path does: search, filter, selection and rescoring."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import tiny_models
import torch
from cli_helpers import assert_usage_error
from click.testing import CliRunner
from exported_folders import TEXT

from quals_fast import DecodingConfig, QualsScorer, ScoringConfig, __version__
from quals_fast.commands.app import app
from quals_fast.export import single_file
from quals_fast.export.exporter import ExportParityError
from quals_fast.export.loop_parts import contains, group_select
from quals_fast.export.single_file import export_single_file, feeds
from quals_fast.export.translations import TRANSLATIONS
from quals_fast.exported.session import Graph, resolve_provider
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.ops import EAGER

TRAINED_ON = f"{TEXT} 陈"  # so that [UNK] is among the answers
LONG = f"{TEXT} . " * 6  # more than the model's 64 positions
DOCUMENTS = [TEXT, "the king closed the game", LONG, "who was the queen ?", TEXT, *[TEXT] * 2, "陈"]
SUMMARIES = [
    "anne opened the tower",
    "the queen won in 1969",
    TEXT,
    LONG,
    "?",  # no answer is that
    "the queen 陈 opened the tower 1969 伟",
    "陈 伟 , the 张 敏",
    "queen anne",
]
TEXTS = list(zip(DOCUMENTS, SUMMARIES, strict=True))
SMALL = {"num_beams": 12, "min_length": 2, "max_length": 12}
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}  # tracing takes most of the time
KINDS = {
    "fairseq09, groups of one": (
        tiny_models.CONFIG,
        DecodingConfig(**SMALL, num_beam_groups=12),
        ScoringConfig(),
    ),
    "fairseq09, groups of three; length penalty, few pairs": (
        {**tiny_models.CONFIG, **ONE_LAYER},
        DecodingConfig(**SMALL, num_beam_groups=4, length_penalty=0.7),
        ScoringConfig(max_pairs=3),
    ),
    "hamming, groups of three; other conventions, answers, all pairs, a score without pairs": (
        {
            **tiny_models.CONFIG,
            "forced_bos_token_id": 3,
            "masked_token_ids": [2, 7],
            "source_bos": False,
            **ONE_LAYER,
            "decoder_attention_heads": 4,
            "scale_embedding": True,
        },
        DecodingConfig(**SMALL, num_beam_groups=4, rule="hamming"),
        ScoringConfig(
            summary_logprob="search", tokens="answer", max_pairs=None, no_pairs_score=-5.0
        ),
    ),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.slow if "length penalty" in kind else ())
        for kind in KINDS
    ],
)
def both(request, tmp_path_factory):
    """The graph's path, the graph and the scorer that it must agree with."""
    config, decoding, scoring = KINDS[request.param]
    folder = tmp_path_factory.mktemp("single")
    model = tiny_models.write_checkpoint(folder / "m", config, trained_on=TRAINED_ON)
    path = folder / "quals.onnx"
    parity = export_single_file(model, path, decoding=decoding, scoring=scoring, texts=TEXTS)
    assert parity["pairs"] >= 10
    assert parity["identical_pairs"] == 1.0
    assert parity["max_abs_delta"] < 1e-4
    scorer = QualsScorer.from_pretrained(
        model, device="cpu", dtype="float32", decoding=decoding, scoring=scoring
    )
    return path, Graph(path, resolve_provider("cpu")), scorer


def inputs(scorer, texts):
    columns = (list(column) for column in zip(*texts, strict=True))
    encoded = (scorer.engine.model.tokenizer.encode(column) for column in columns)
    return feeds(*([source.text_ids for source in column] for column in encoded))


def assert_agrees(row, found, b):
    assert single_file.STATUSES[found["status"][b]] == row.status
    assert found["score"][b] == pytest.approx(row.score, rel=1e-5, abs=1e-6, nan_ok=True)
    assert found["truncated_tokens"][b] == row.truncated_tokens
    assert found["unknown_tokens"][b] == row.unknown_tokens
    assert found["n_pairs"][b] == len(row.pairs)
    lengths = found["pair_lengths"][b]
    assert not lengths[len(row.pairs) :].any()
    for i, pair in enumerate(row.pairs):
        assert tuple(found["pair_ids"][b, i, : lengths[i]]) == pair.token_ids
        for name in ("summary_logprobs", "document_logprobs"):
            assert found[name][b, i, : lengths[i]] == pytest.approx(getattr(pair, name), abs=1e-5)
            assert not found[name][b, i, lengths[i] :].any()


def test_the_graph_scores_as_the_eager_backend(both):
    _, graph, scorer = both
    expected = scorer.score(DOCUMENTS, SUMMARIES)
    statuses = ["ok"] * 4 + ["no_pairs", "ok", "unknown_text", "unknown_text"]
    assert [row.status for row in expected] == statuses
    assert expected[2].truncated_tokens > 0
    assert [row.unknown_tokens for row in expected] == [0] * 5 + [2, 4, 1]
    masked = scorer.engine.model.conventions.masked_token_ids
    if 2 not in masked:  # such answers are there to be dropped
        (found,) = scorer.generate(SUMMARIES[5:6])
        assert any(2 in h.token_ids[h.token_ids.index(1) :] for h in found if 1 in h.token_ids)
    together = graph.run(inputs(scorer, TEXTS))
    for b, (row, texts) in enumerate(zip(expected, TEXTS, strict=True)):
        assert_agrees(row, together, b)
        assert_agrees(row, graph.run(inputs(scorer, [texts])), 0)


def test_what_stands_behind_a_length_does_not_matter(both):
    _, graph, scorer = both
    given = inputs(scorer, TEXTS)
    expected = graph.run(given)
    for name in ("document", "summary"):
        ids = given[f"{name}_ids"]
        ids[np.arange(ids.shape[1]) >= given[f"{name}_lengths"][:, None]] = -7
    for name, values in graph.run(given).items():
        np.testing.assert_array_equal(values, expected[name])


def test_empty_texts_have_a_status(both):
    _, graph, scorer = both
    given = inputs(scorer, TEXTS[:3])
    given["document_lengths"][0] = given["summary_lengths"][1] = 0
    found = graph.run(given)
    assert [single_file.STATUSES[i] for i in found["status"]] == [
        "empty_document",
        "empty_summary",
        "ok",
    ]
    assert np.isnan(found["score"]).tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["document", "summary"])
@pytest.mark.parametrize(("what", "value"), [("ids", 44), ("ids", -1), ("lengths", 99)])
def test_ids_and_lengths_out_of_range_are_refused(both, name, what, value):
    _, graph, scorer = both
    given = inputs(scorer, TEXTS[:2])
    given[f"{name}_{what}"].flat[0] = value
    with pytest.raises(RuntimeError, match=r"ONNX Runtime failed: .*indices element out of data"):
        graph.run(given)


def test_the_file_says_what_it_is(both):
    path, _, scorer = both
    model = ir.load(path)
    told = model.metadata_props
    assert told["quals_fast"] == __version__
    assert told["digest"] == scorer.engine.model.digest
    assert told["signature"] == scorer.signature.replace("eager", "onnx-single-file")
    assert json.loads(told["decoding"])["num_beams"] == 12
    assert json.loads(told["tokens"])["sep_token_id"] == 1
    assert json.loads(told["statuses"]) == list(single_file.STATUSES)
    assert all(value.doc_string for value in [*model.graph.inputs, *model.graph.outputs])
    assert [path] == list(path.parent.glob("*.onnx*"))  # nothing beside it


# The parts of the loop


class GroupSelect(torch.nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, logprobs, token_ids, beam_scores, active):
        return group_select(logprobs, token_ids, beam_scores, active, **self.settings)


@pytest.mark.parametrize("groups", [12, 4])
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_groups_choose_as_the_reference_does_ties_too(rule, groups):
    rng = np.random.default_rng(0)
    batch, beams, width, vocab = 3, 12, 24, 40
    settings = {
        "rule": rule,
        "num_beam_groups": groups,
        "penalty": 0.5,
        "eos_token_id": 4,
        "vocab_size": vocab,
    }
    ids = np.array([np.sort(rng.permutation(vocab)[:width]) for _ in range(batch * beams)])
    given = (
        # Halves, so that penalties make ties.
        torch.tensor(-rng.integers(0, 8, (batch, beams, width)) / 2, dtype=torch.float32),
        torch.tensor(ids).view(batch, beams, width),
        torch.tensor(-rng.integers(0, 6, (batch, beams)) / 2, dtype=torch.float32),
        torch.tensor(rng.random((batch, groups)) < 0.7),
    )
    given[0][0, :, ::5] = -torch.inf
    program = torch.onnx.export(
        GroupSelect(**settings), given, dynamo=True, custom_translation_table=TRANSLATIONS
    )
    expected = EAGER.group_select(*given, **settings)
    for part, found in zip(expected, program(*given), strict=True):
        torch.testing.assert_close(found, part, rtol=0, atol=0)


def test_spans_are_found_as_by_the_reference():
    generator = torch.Generator().manual_seed(0)

    def draw(high, *shape):
        return torch.randint(high, shape, generator=generator)

    given = draw(2, 4, 11), draw(12, 4), draw(2, 4, 30, 5), draw(6, 4, 30)
    expected = EAGER.span_match(*given)
    assert 10 < expected.sum() < 110
    assert torch.equal(contains(*given), expected)


# What is refused


def test_models_that_match_text_are_refused(tmp_path):
    config, tokenizer = tiny_models.FAIRSEQ_LIKE, tiny_models.byte_level_tokenizer()
    model = tiny_models.write_checkpoint(tmp_path / "m", config, tokenizer)
    with pytest.raises(CheckpointError, match="matched by ids, but m matches"):
        export_single_file(model, tmp_path / "out.onnx")


def test_models_over_two_gigabytes_are_refused(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(single_file, "_MAX_FILE_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"can have up to 2 GB, but tiny has 0\.0 GB"):
        export_single_file(tiny_folder, tmp_path / "out.onnx")


def test_settings_that_do_not_fit_are_refused(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="`max_length` must be below the model's 64 positions"):
        export_single_file(
            tiny_folder, tmp_path / "out.onnx", decoding=DecodingConfig(max_length=64)
        )
    (tmp_path / "out.onnx").touch()
    with pytest.raises(ValueError, match=r"`path` must not exist, but .* does; choose another"):
        export_single_file(tiny_folder, tmp_path / "out.onnx")


def test_a_graph_that_differs_is_not_left_under_its_name(both, tmp_path, monkeypatch):
    """The checkpoint's weights have changed since the graph was made."""
    path, _, scorer = both
    monkeypatch.setattr(single_file, "_trace", lambda module: ir.load(path))
    target = tmp_path / "out.onnx"

    def attempt(message, model):
        with pytest.raises(ExportParityError, match=message):
            export_single_file(
                model, target, decoding=scorer.decoding, scoring=scorer.scoring, texts=TEXTS
            )
        assert [p.name for p in tmp_path.glob("*.onnx*")] == ["out.onnx.failed"]

    monkeypatch.setattr(single_file, "_TOLERANCE", 0.0)
    attempt("differs from the model by up to .* but 0 is allowed", path.parent / "m")
    other = tmp_path / "other"
    config = json.loads((path.parent / "m" / "config.json").read_text())
    tiny_models.write_checkpoint(other, config, seed=3, trained_on="who closed the bridge town")
    attempt("keeps other pairs than the model: only .* % are identical", other)


def test_the_command(tiny_folder, tmp_path, monkeypatch):
    def write(source, target, *, revision, decoding, scoring):
        assert (source, target) == (str(tiny_folder), "out.onnx")
        assert decoding == DecodingConfig(rule="hamming", num_beams=6, num_beam_groups=3)
        assert scoring == ScoringConfig(max_pairs=None)
        return {"pairs": 7, "identical_pairs": 1.0, "max_abs_delta": 2e-6}

    monkeypatch.setattr(single_file, "export_single_file", write)
    command = ["export", str(tiny_folder), "out.onnx"]
    settings = ["--rule", "hamming", "--num-beams", "6", "--num-beam-groups", "3"]
    run = CliRunner().invoke
    result = run(app, [*command, "--single-file", *settings, "--max-pairs", "all"])
    assert result.exit_code == 0
    assert "100 % of 7 pairs are identical" in result.output
    result = run(app, [*command, *settings])
    assert_usage_error(result, "`--rule` needs --single-file … quals-fast score")
    result = run(app, [*command, "--single-file", "--dtype", "int8"])
    assert_usage_error(result, "`--single-file` needs --dtype float32, but got int8")
