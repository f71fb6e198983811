"""ConSeq: the loss, the choice, the trainer, and the whole run with its interruptions."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from tiny_trainers import DOCUMENTS, SUMMARIES, summariser, tokenizer
from torch.nn import functional as F
from training_helpers import SETTINGS
from transformers import Seq2SeqTrainingArguments

from quals_fast.commands.app import app
from quals_fast.training.conseq import pipeline
from quals_fast.training.conseq.config import ConSeqConfig
from quals_fast.training.conseq.loss import conseq_loss, log_not
from quals_fast.training.conseq.pipeline import run_conseq
from quals_fast.training.conseq.selection import Judged, choose, judge_by_rouge
from quals_fast.training.conseq.trainer import ConSeqCollator, ConSeqTrainer, encode_rows

WORDS = tokenizer()


def published(logits, labels, negative_logits, negative_labels, smoothing):
    """The formula of the published criterion, in float64."""

    def smoothed(values, labels):
        kept = labels != -100
        values, labels = values[kept], labels[kept]
        at_labels = values.gather(-1, labels[:, None]).sum()
        return -(1 - smoothing) * at_labels - smoothing / values.shape[-1] * values.sum()

    positive = smoothed(F.log_softmax(logits.double(), -1), labels)
    one_minus = (1 - negative_logits.double().softmax(-1)).clamp(min=1e-20)
    negative = smoothed(one_minus.log(), negative_labels)
    return (positive + negative) / ((labels != -100).sum() + (negative_labels != -100).sum())


def batch(dtype=torch.float32):
    labels = torch.tensor([[1, 2, -100], [0, 4, 3]])
    negative_labels = torch.tensor([[4, 0], [-100, -100]])
    logits, negative_logits = (torch.randn(2, t, 5, dtype=dtype) for t in (3, 2))
    return logits, labels, negative_logits, negative_labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_published_one(smoothing):
    found = conseq_loss(*batch(), label_smoothing=smoothing)
    torch.manual_seed(0)
    assert found.item() == pytest.approx(published(*batch(), smoothing).item(), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_finite_differences(smoothing):
    logits, labels, negative_logits, negative_labels = batch(torch.float64)
    inputs = (logits.requires_grad_(), negative_logits.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: conseq_loss(a, labels, b, negative_labels, label_smoothing=smoothing), inputs
    )


@pytest.mark.parametrize("gap", [5.0, 20.0, 40.0, 1000.0])
def test_near_one_neither_loss_nor_gradient_is_lost(gap):
    logits = torch.tensor([[gap, 0.0, 0.0, 0.0]], requires_grad=True)
    found = log_not(logits)
    exact = math.log(3) - gap - math.log1p(3 * math.exp(-gap))  # 1 - p of the first token
    assert found[0, 0].item() == pytest.approx(exact, rel=1e-6)
    found[0, 0].backward()
    assert logits.grad[0, 0].item() == pytest.approx(-1.0, abs=0.03)  # minus its probability
    assert bool(logits.grad.isfinite().all())


def test_the_loss_of_a_certain_negative_is_bounded_and_its_gradient_finite():
    logits, labels, _, _ = batch()
    negative = torch.tensor([[[900.0, 0, 0, 0, 0]]], requires_grad=True)
    loss = conseq_loss(logits, labels, negative, torch.tensor([[0]]), label_smoothing=0.1)
    assert math.isfinite(loss.item())
    loss.backward()
    assert bool(negative.grad.isfinite().all())


def test_low_precision_is_computed_in_float32():
    logits, labels, negative, negative_labels = batch()
    low = conseq_loss(logits.bfloat16(), labels, negative.bfloat16(), negative_labels)
    exact = conseq_loss(
        logits.bfloat16().float(), labels, negative.bfloat16().float(), negative_labels
    )
    assert low.dtype == torch.float32 and low == exact


def test_wrong_arguments_of_the_loss():
    with pytest.raises(ValueError, match="`label_smoothing` must be from 0 to below 1, but got 1"):
        conseq_loss(*batch(), label_smoothing=1.0)
    nothing = torch.full((1, 2), -100)
    with pytest.raises(ValueError, match="the labels must have a token, but all are -100"):
        conseq_loss(torch.zeros(1, 2, 5), nothing, torch.zeros(1, 2, 5), nothing)


NAN = math.nan


def test_good_references_with_bad_samples_are_chosen():
    rows = [
        Judged(reference=-0.1, samples=(-0.5, -3.0, -1.0)),
        Judged(reference=-0.2, samples=(-0.1, NAN)),
        Judged(reference=-2.0, samples=(-5.0, -5.0)),
        Judged(reference=-0.3, samples=(-2.0, -4.0)),
        Judged(reference=NAN, samples=(-9.0,)),
        Judged(reference=0.0, samples=(NAN,)),
    ]
    # Of four usable rows, half have the best references (0, 1), half the worst samples (2, 3).
    assert choose(rows, positive_fraction=0.5, negative_fraction=0.5) == []
    assert choose(rows, positive_fraction=0.75, negative_fraction=0.75) == [(0, 1), (3, 1)]
    assert choose(rows, positive_fraction=1.0, negative_fraction=0.25) == [(2, 0)]
    assert choose(rows, positive_fraction=1, negative_fraction=1) == [
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 1),
    ]
    assert choose([], positive_fraction=0.3, negative_fraction=0.3) == []


@pytest.mark.parametrize("n", [10, 30, 100, 1000])
def test_a_fraction_is_what_it_says(n):
    rows = [Judged(reference=float(i), samples=(0.0,)) for i in range(n)]
    assert len(choose(rows, positive_fraction=0.3, negative_fraction=1)) == 3 * n // 10


def test_fractions_out_of_range():
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="`negative_fraction` must be above 0 and at most 1"):
            choose([], negative_fraction=fraction)


def test_rouge_judges_by_the_mean_of_three():
    judged = judge_by_rouge(["the king won", "anne"], [["the king won", "the tower"], []])
    assert judged[0].reference == judged[1].reference == 1.0
    # "the" of 3 and 2 words: F1 0.4 for ROUGE-1 and ROUGE-L, nothing for ROUGE-2.
    assert judged[0].samples == pytest.approx((1.0, 0.8 / 3))
    assert judged[1].samples == ()


def rows_of(positives, negatives):
    return encode_rows(
        WORDS, DOCUMENTS, positives, negatives, max_source_tokens=62, max_target_tokens=20
    )


def trainer(tmp_path, **settings):
    model = summariser()
    model.final_logits_bias.zero_()
    defaults = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return ConSeqTrainer(
        model,
        Seq2SeqTrainingArguments(output_dir=str(tmp_path), **defaults | settings),
        train_dataset=rows_of(SUMMARIES, SUMMARIES[::-1]),
        eval_dataset=[{k: row[k] for k in ("input_ids", "attention_mask", "labels")}
                      for row in rows_of(SUMMARIES, SUMMARIES)],
        data_collator=ConSeqCollator(WORDS.pad_token_id),
        processing_class=WORDS,
    )  # fmt: skip


def test_the_trainers_loss_is_that_of_two_passes(tmp_path):
    host = trainer(tmp_path, label_smoothing_factor=0.1)
    inputs = host.data_collator(host.train_dataset)
    model = host.model.eval()
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    positive, negative = (
        model(**given, labels=inputs[key]).logits for key in ("labels", "negative_labels")
    )
    expected = conseq_loss(positive, inputs["labels"], negative, inputs["negative_labels"])
    assert host.compute_loss(model, dict(inputs)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_training_makes_positives_likelier_and_negatives_unlikelier(tmp_path):
    host = trainer(tmp_path, max_steps=30, learning_rate=3e-3, per_device_train_batch_size=4)

    def likelihoods():
        inputs = host.data_collator(host.train_dataset)
        given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            return [
                -host.model.eval()(**given, labels=inputs[key]).loss.item()
                for key in ("labels", "negative_labels")
            ]

    before = likelihoods()
    host.train()
    after = likelihoods()
    assert after[0] > before[0]
    assert after[0] - before[0] > after[1] - before[1]
    assert math.isfinite(host.evaluate()["eval_loss"])


def test_accumulated_batches_weigh_the_same_as_one(tmp_path):
    def weights(**settings):
        host = trainer(tmp_path, max_steps=1, learning_rate=1e-2, optim="sgd", **settings)
        for module in host.model.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else None
        host.model.config.dropout = 0.0
        for layer in [*host.model.model.encoder.layers, *host.model.model.decoder.layers,
                      host.model.model.encoder, host.model.model.decoder]:  # fmt: skip
            layer.dropout = 0.0
        rows = rows_of([SUMMARIES[0]] * 4, [SUMMARIES[1]] * 4)
        host.train_dataset = [rows[0]] * 4
        host.train()
        return host.model.state_dict()

    one = weights(per_device_train_batch_size=4)
    two = weights(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


CONFIG = ConSeqConfig(
    num_samples=3, min_length=3, max_length=8, positive_fraction=1.0, negative_fraction=0.75,
    epochs=2, batch_size=2, max_source_tokens=60, save_steps=1, learning_rate=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summariser")
    summariser().save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


@pytest.fixture
def run(folder, scorer, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK_DOCUMENTS", 2)

    def run(output, config=CONFIG, documents=DOCUMENTS, **more):
        arguments = {"scorer": scorer, "device": "cpu", **more}
        return run_conseq(
            documents, SUMMARIES[: len(documents)], model=folder, output=output, config=config,
            **arguments,
        )  # fmt: skip

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_run_from_end_to_end(run, tmp_path, scorer):
    progress = []
    result = run(tmp_path, on_progress=lambda *step: progress.append(step))
    assert (result.n_documents, result.n_judged) == (4, 4)
    assert 1 <= result.n_chosen <= 4 and math.isfinite(result.loss)
    assert progress[-1][0] == "training" and progress[-1][1] == progress[-1][2]
    assert {stage for stage, *_ in progress} == {"samples", "scores_quals", "training"}
    samples = lines(tmp_path / "samples.jsonl")[1:]
    assert [len(own) for own in samples] == [3] * 4
    scores = lines(tmp_path / "scores_quals.jsonl")[1:]
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    assert [reference for reference, _ in scores] == pytest.approx(expected, abs=1e-6)
    for pair in lines(tmp_path / "pairs_quals.jsonl"):
        row = pair["row"]
        assert (pair["document"], pair["positive"]) == (DOCUMENTS[row], SUMMARIES[row])
        assert pair["negative"] in samples[row]
        assert pair["negative_score"] == min(s for s in scores[row][1] if s is not None)
    trained = type(summariser()).from_pretrained(result.model)
    assert not torch.equal(trained.model.shared.weight, summariser().model.shared.weight)
    again = run(tmp_path)
    assert math.isnan(again.loss) and again.n_chosen == result.n_chosen


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stage", ["samples", "scores_quals", "training"])
def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_was_not(run, tmp_path, stage):
    whole = run(tmp_path / "whole")

    def stop(name, done, total):
        if name == stage and 0 < done < total:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "stopped", on_progress=stop)
    for path in (tmp_path / "stopped").glob("s*.jsonl"):  # as kill -9 in a write would
        with path.open("ab") as file:
            file.write(b'["half a li')
    seen = []
    result = run(tmp_path / "stopped", on_progress=lambda *step: seen.append(step))
    assert next(done for name, done, _ in seen if name == stage) > 0
    for name in ("samples.jsonl", "scores_quals.jsonl", "pairs_quals.jsonl"):
        texts = [(tmp_path / run / name).read_text("utf-8") for run in ("whole", "stopped")]
        assert texts[0] == texts[1]
    load = type(summariser()).from_pretrained
    one, other = (load(path).state_dict() for path in (whole.model, result.model))
    assert all(torch.allclose(one[name], other[name], atol=1e-7) for name in one)


def test_rouge_shares_the_samples_and_needs_no_scorer(run, tmp_path):
    run(tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    config = ConSeqConfig(**{n: getattr(CONFIG, n) for n in CONFIG.__slots__} | {"by": "rouge"})
    result = run(tmp_path, config=config, scorer=None)
    assert result.model.name == "model_rouge" and result.model.is_dir()
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert all(p["positive_score"] == 1.0 for p in lines(tmp_path / "pairs_rouge.jsonl"))


def test_a_folder_of_another_run_is_refused(run, tmp_path):
    run(tmp_path)
    other = {n: getattr(CONFIG, n) for n in CONFIG.__slots__}
    with pytest.raises(ValueError, match=r"samples\.jsonl was made with seed 0, but now it is 1;"):
        run(tmp_path, config=ConSeqConfig(**other | {"seed": 1}))
    with pytest.raises(ValueError, match=r"samples\.jsonl was made with data '"):
        run(tmp_path, documents=DOCUMENTS[:3])
    with pytest.raises(
        ValueError, match=r"training_quals\.json was made with learning_rate 0\.001"
    ):
        run(tmp_path, config=ConSeqConfig(**other | {"learning_rate": 1e-4}))


def test_what_cannot_be_run_is_refused(run, tmp_path, folder, scorer):
    with pytest.raises(ValueError, match="`scorer` must be given for by='quals'"):
        run(tmp_path, scorer=None)
    with pytest.raises(ValueError, match=r"`documents\[1\]` must not be empty"):
        run(tmp_path, documents=["a", " "])
    with pytest.raises(ValueError, match="no document is left to learn from: of 1, 0 have scores"):
        run_conseq(
            ["the town"], ["?"], model=folder, output=tmp_path / "none", scorer=scorer,
            config=CONFIG, device="cpu",
        )  # fmt: skip
    with pytest.raises(ValueError, match="the summariser must be a local folder, but got 'gone'"):
        run_conseq(["a"], ["b"], model="gone", output=tmp_path / "gone", scorer=scorer)
    assert not (tmp_path / "gone").exists()
    for settings, message in [
        ({"by": "bleu"}, "`by` must be 'quals' or 'rouge', but got 'bleu'"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"positive_fraction": 0.0}, "`positive_fraction` must be above 0"),
        ({"min_length": 70}, "`max_length` must be at least `min_length`, but got 60"),
    ]:
        with pytest.raises(ValueError, match=message):
            ConSeqConfig(**settings)


def test_the_command(folder, qagen_folder, tmp_path):
    given = tmp_path / "pairs.jsonl"
    rows = [{"document": d, "summary": s} for d, s in zip(DOCUMENTS, SUMMARIES, strict=True)]
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"document": "a"}]))
    decoding = SETTINGS["decoding"]
    arguments = [
        "conseq", str(given), "--summariser", str(folder), "-o", str(tmp_path / "out"),
        "--model", str(qagen_folder), "--device", "cpu", "--dtype", "float32",
        "--num-beams", str(decoding.num_beams), "--num-beam-groups", "12", "--min-length", "2",
        "--max-length", "12", "--samples", "3", "--sample-min-length", "3", "--sample-max-length",
        "8", "--positive-fraction", "1", "--negative-fraction", "0.5", "--batch-size", "2",
        "--max-source-tokens", "60", "--seed", "3",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "of 4 documents (4 had scores); skipped 1 unusable row" in result.stderr
    assert (tmp_path / "out" / "model_quals" / "model.safetensors").is_file()
    failed = CliRunner().invoke(app, [*arguments, "--fail-fast"])
    assert failed.exit_code == 2 and "line 5" in failed.stderr
    failed = CliRunner().invoke(app, [*arguments, "--sample-max-length", "2"])
    assert failed.exit_code == 2 and "`max_length` must be at least" in failed.stderr
