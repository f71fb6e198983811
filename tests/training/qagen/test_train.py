"""A run trains, goes on where it ended, and loses nothing."""

import errno
import json
import re
import shutil
from dataclasses import replace
from itertools import chain

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from engine_nats import nats_by_engine
from safetensors.torch import load_file

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.models.loading import load_model
from quals_fast.training.qagen import batches, checkpoints, clock, pipeline
from quals_fast.training.qagen.batches import Examples, Plan
from quals_fast.training.qagen.corpus import read_corpus
from quals_fast.training.qagen.encoding import PairEncoder
from quals_fast.training.qagen.network import BartForConditionalGeneration as Network
from quals_fast.training.qagen.pipeline import train
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings, Views
from quals_fast.training.qagen.starting_point import load_starting_point

WEIGHTS = "model.safetensors"


def same(one, other):
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def test_the_folder_scores_and_keeps_the_conventions(run, settings, base):
    lines, found = run(dev=settings.train[0])
    assert found["steps_done"] == found["steps"] == 5
    assert not same(base, settings.output)
    assert read_checkpoint(settings.output)[1] == read_checkpoint(base)[1]
    small = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=12)
    scorer = QualsScorer.from_pretrained(settings.output, device="cpu", decoding=small)
    result = scorer.score(["queen anne opened the bridge"], ["anne opened a tower"])
    assert result[0].status in ("ok", "no_pairs")
    losses = [one["eval_loss"] for one in found["evaluations"]]
    assert losses[-1] < losses[0]
    assert any(re.search(r"perplexity \d+\.\d+ on the questions of --dev", one) for one in lines)


def test_the_perplexity_is_that_of_the_engine(run, settings):
    """Nats a token of whole passages, as the scorer gives them for the same targets."""
    _, found = run(dev=settings.train[0], views=Views.parse("passage=1"))
    found_by_engine = nats_by_engine(settings, 64)
    nats = [*chain.from_iterable(found_by_engine)]
    assert len(found_by_engine) == 12
    assert sum(nats) / len(nats) == pytest.approx(found["evaluations"][-1]["eval_loss"], abs=1e-5)


def keep_up_to(step, source, target):
    """Copy a run as it was when the checkpoint at a step had just been written."""
    shutil.copytree(source, target)
    for folder in checkpoints.checkpoints(target):
        if int(folder.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(folder)
    (target / WEIGHTS).unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "state": lambda folder: (folder / "trainer_state.json").unlink(),
    "half-state": lambda folder: truncate(folder / "trainer_state.json"),
    "weights": lambda folder: truncate(folder / WEIGHTS),
    "optimizer": lambda folder: truncate(folder / "optimizer.pt"),
    "scheduler": lambda folder: (folder / "scheduler.pt").write_bytes(b""),
    "draws": lambda folder: (folder / "rng_state.pth").unlink(),
}


@pytest.fixture(scope="module")
def whole_run(base, questions, tmp_path_factory):
    settings = TrainingSettings(
        train=(questions,), init=str(base), output=tmp_path_factory.mktemp("runs") / "whole",
        epochs=1, batch_tokens=110, warmup_steps=1, learning_rate=1e-2, dropout=0.1, every=2,
        keep=9, bf16="off", cpu=True, threads=1,
    )  # fmt: skip
    train(settings, lambda line: None)
    return settings


def test_a_run_goes_on_as_if_it_had_never_stopped(whole_run, tmp_path):
    keep_up_to(2, whole_run.output, tmp_path / "again")
    lines = []
    train(replace(whole_run, output=tmp_path / "again"), lines.append)
    assert any("resuming from" in line and "checkpoint-2" in line for line in lines)
    assert same(whole_run.output, tmp_path / "again")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_half_written_checkpoint_is_skipped(whole_run, tmp_path, damage):
    keep_up_to(4, whole_run.output, tmp_path / "again")
    damage(tmp_path / "again" / "checkpoint-4")
    lines = []
    train(replace(whole_run, output=tmp_path / "again"), lines.append)
    assert any("checkpoint-4, which is incomplete" in line for line in lines)
    assert any("resuming from" in line and "checkpoint-2" in line for line in lines)
    assert same(whole_run.output, tmp_path / "again")


def test_questions_that_share_texts_train_and_go_on(settings, tmp_path):
    """As the bundled model is trained: in bfloat16, without dropout, targets in one row."""
    shared = replace(settings, together=3, dropout=0.0, bf16="on", examples=36)
    lines = []
    found = train(shared, lines.append)
    assert found["examples"] == 36
    assert found["texts"] < 30
    assert any("36 questions on" in line for line in lines)
    keep_up_to(2, shared.output, tmp_path / "again")
    train(replace(shared, output=tmp_path / "again"), lines.append)
    assert any("resuming from" in line for line in lines)
    assert same(shared.output, tmp_path / "again")


def test_without_a_whole_checkpoint_a_run_begins_anew(whole_run, tmp_path):
    keep_up_to(2, whole_run.output, tmp_path / "again")
    truncate(tmp_path / "again" / "checkpoint-2" / "optimizer.pt")
    train(replace(whole_run, output=tmp_path / "again"), lambda line: None)
    assert same(whole_run.output, tmp_path / "again")


@pytest.mark.parametrize("failing", ["optimizer", "weights"])
def test_a_full_disk_leaves_the_last_checkpoint(settings, whole_run, monkeypatch, failing):
    save, save_network = torch.save, Network.save_pretrained

    def full(content, path, *more, **named):
        if "checkpoint-4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return save(content, path, *more, **named)

    def full_too(network, folder, *more, **named):
        if "checkpoint-4" in str(folder):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return save_network(network, folder, *more, **named)

    with monkeypatch.context() as patch:
        if failing == "optimizer":
            patch.setattr(torch, "save", full)
        else:
            patch.setattr(Network, "save_pretrained", full_too)
        with pytest.raises(TrainingError) as raised:
            train(settings, lambda line: None)
    message = str(raised.value)
    assert re.search(r"cannot write .*checkpoint-4: .*No space left on device", message)
    assert re.search(r"checkpoint-2: free some space, and run the same command", message)
    assert [path.name for path in checkpoints.checkpoints(settings.output)] == ["checkpoint-2"]
    train(settings, lambda line: None)
    assert same(whole_run.output, settings.output)


def test_other_errors_while_saving_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA error"), checkpoints.writing(tmp_path, removes=1):
        raise RuntimeError("CUDA error")
    assert tmp_path.is_dir()


def test_a_folder_of_another_run_is_refused(run, settings, tmp_path):
    run()
    with pytest.raises(TrainingError, match=r"belongs to a run whose `seed` is 0, but got 1;"):
        run(seed=1)
    run(every=3)  # may change
    (settings.output / "run.json").write_text("{")
    with pytest.raises(TrainingError, match="so the run cannot be identified"):
        run()
    other = tmp_path / "full"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(TrainingError, match="must be empty or the folder of a run"):
        run(output=other)


def change_identity(output, **changes):
    """Let a run be one that an earlier version began."""
    path = output / "run.json"
    run = json.loads(path.read_text())
    run["identity"] |= changes
    path.write_text(json.dumps(run))


def test_a_run_of_an_earlier_version_goes_on(whole_run, tmp_path):
    """Its weight of answers was a setting, and what may change was part of its identity."""
    keep_up_to(2, whole_run.output, tmp_path / "again")
    change_identity(tmp_path / "again", answer_weight=1.0, workers=3)
    lines = []
    train(replace(whole_run, output=tmp_path / "again"), lines.append)
    assert any("resuming from" in line and "checkpoint-2" in line for line in lines)
    assert same(whole_run.output, tmp_path / "again")


@pytest.mark.parametrize(("name", "value"), [("answer_weight", 2.5), ("of_tomorrow", "x")])
def test_a_run_with_a_setting_that_is_gone_is_refused(whole_run, tmp_path, name, value):
    keep_up_to(2, whole_run.output, tmp_path / "again")
    change_identity(tmp_path / "again", **{name: value})
    message = f"whose `{name}` is {value!r}, a setting .* resume with the version that started"
    with pytest.raises(TrainingError, match=message):
        train(replace(whole_run, output=tmp_path / "again"), lambda line: None)


def test_a_run_with_the_views_that_were_the_default_goes_on_with_these(whole_run, tmp_path):
    earlier = "window=0.53,passage=0.2,distractors=0.09,answer_given=0.18"
    keep_up_to(2, whole_run.output, tmp_path / "again")
    change_identity(tmp_path / "again", views=earlier)
    again = replace(whole_run, output=tmp_path / "again")
    with pytest.raises(TrainingError, match=f"`views` is '{earlier}', but got "):
        train(again, lambda line: None)
    lines = []
    train(replace(again, views=Views.parse(earlier)), lines.append)
    assert any("resuming from" in line for line in lines)


def test_a_folder_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot write .*file/run/run.json: Not a directory"):
        run(output=tmp_path / "file" / "run")


def test_a_run_stops_early_and_takes_the_best(run, settings):
    lines, found = run(dev=settings.train[0], patience=1, learning_rate=10.0, every=1)
    assert found["steps_done"] < found["steps"]
    losses = {one["step"]: one["eval_loss"] for one in found["evaluations"]}
    best = min(losses, key=losses.get)
    assert any(f"the best checkpoint is {settings.output}/checkpoint-{best}" in x for x in lines)
    assert same(settings.output, settings.output / f"checkpoint-{best}")


def test_the_network_is_as_the_settings_say(settings):
    own = replace(settings, label_smoothing=0.2, dropout=0.25)
    network = load_starting_point(own, print, []).network
    assert network.label_smoothing == 0.2
    config = network.config
    rates = (config.dropout, config.attention_dropout, config.activation_dropout)
    assert rates == (0.25, 0.0, 0.0)


def test_batches_of_a_step_and_old_checkpoints(run, settings):
    _, found = run(accumulate=3, every=1, keep=2, examples=24)
    names = [path.name for path in checkpoints.checkpoints(settings.output)]
    assert names == [f"checkpoint-{found['steps']}", f"checkpoint-{found['steps'] - 1}"]
    assert found["steps"] == 4


def test_a_longer_run_begins_as_the_shorter_one(settings, monkeypatch):
    monkeypatch.setattr(batches, "_POOL_EXAMPLES", 4)
    start = load_starting_point(settings, lambda line: None, [])
    encoder = PairEncoder(start.tokenizer, start.conventions, 64)
    corpus = read_corpus(settings.train)
    runs = [Examples(corpus, encoder, replace(settings, examples=n)) for n in (8, 20)]
    plans = [list(Plan(examples, 110, 0)) for examples in runs]
    assert plans[1][: len(plans[0])] == plans[0]
    assert sorted(place for batch in plans[1] for place in batch) == list(range(20))
    even = Plan(runs[0], 110, 0, multiple_of=2)
    assert len(even) % 2 == 0
    with pytest.raises(TrainingError, match=r"99 processes need a batch each, but .* only \d"):
        Plan(runs[0], 110, 0, multiple_of=99)


def test_workers_change_nothing(whole_run, tmp_path):
    train(replace(whole_run, output=tmp_path / "run", workers=2), lambda line: None)
    assert same(whole_run.output, tmp_path / "run")


class Ticks:
    """A clock that each look takes forward."""

    def __init__(self, seconds):
        self._seconds, self._now = seconds, 0.0

    def __call__(self):
        self._now += self._seconds
        return self._now


def test_a_run_ends_in_time_with_the_rate_at_its_end(run, settings, monkeypatch):
    _, plain = run(examples=240, decay=0.9)
    monkeypatch.setattr(clock.time, "monotonic", Ticks(1.0))
    lines, found = run(
        examples=240, decay=0.9, minutes=0.5, output=settings.output.with_name("timed")
    )
    assert found["steps"] == plain["steps"] == plain["steps_done"]
    assert 5 < found["steps_done"] < found["steps"] / 2
    assert any("time limit reached after" in line for line in lines)
    rates = [float(re.search(r"rate (\S+),", line)[1]) for line in lines if "learning rate" in line]
    assert sorted(rates, reverse=True) == rates
    assert rates[-1] < 0.3 * rates[0]
    last = checkpoints.checkpoints(settings.output.with_name("timed"))[0]
    assert last.name == f"checkpoint-{found['steps_done']}"


def test_time_that_reading_takes_up_is_named(run, monkeypatch):
    monkeypatch.setattr(clock.time, "monotonic", Ticks(100.0))
    with pytest.raises(
        TrainingError, match=r"`minutes` must leave time .* but got 1, which has passed"
    ):
        run(minutes=1.0)


def test_minutes_are_for_one_process(run, monkeypatch):
    monkeypatch.setattr(
        pipeline.Seq2SeqTrainingArguments, "world_size", property(lambda arguments: 2)
    )
    with pytest.raises(TrainingError, match=r"`minutes` needs a single process, .* but got 2"):
        run(minutes=1.0)


def test_weights_that_are_not_finite_are_not_saved(run, settings):
    with pytest.raises(TrainingError, match="no longer finite at step 2, so they are not saved"):
        run(learning_rate=1e38)
    assert not checkpoints.checkpoints(settings.output)


def test_bf16_trains_too(run, settings):
    _, found = run(bf16="on", dev=settings.train[0])
    assert found["evaluations"][-1]["eval_loss"] < found["evaluations"][0]["eval_loss"]
    assert load_file(settings.output / WEIGHTS)["model.shared.weight"].dtype == torch.float32


NEW = {
    "wordpiece": ({"[unused0]": 44}, None, 44),
    "byte-level": ({"\u0120strutConnector": 44}, None, 44),
    "asked-for": ({"[unused0]": 44}, "score", None),
    "added": ({}, None, 44),
}


@pytest.mark.parametrize(("tokens", "asked", "expected"), NEW.values(), ids=NEW)
def test_a_separator_is_chosen_where_there_is_none(
    run, settings, tmp_path, tokens, asked, expected
):
    tokenizer = tiny_models.wordpiece_tokenizer()
    assert tokenizer.get_vocab_size() == 44
    tokenizer.add_tokens(list(tokens))
    config = {k: v for k, v in tiny_models.CONFIG.items() if k != "sep_token_id"}
    config |= {"forced_bos_token_id": 3}
    init = tiny_models.write_checkpoint(tmp_path / "plain", config, tokenizer)
    lines, _ = run(init=str(init), sep_token=asked)
    assert any("separator of question and answer" in line for line in lines)
    _, found = read_checkpoint(settings.output)
    assert found.sep_token_id == (tokenizer.token_to_id(asked) if asked else expected)
    assert found.forced_bos_token_id is None
    assert found.bos_token_id == config["bos_token_id"]
    assert found.vocab_size == (45 if asked is None else 44 + len(tokens))
    assert load_model(settings.output, device=torch.device("cpu")).conventions == found


@pytest.mark.parametrize(
    ("token", "expected", "is_new"), [("[SEP0]", 1, False), ("[SEP]", 44, True)]
)
def test_the_separator_may_be_the_tokenizers(settings, tmp_path, token, expected, is_new):
    config = {k: v for k, v in tiny_models.CONFIG.items() if k != "sep_token_id"}
    init = tiny_models.write_checkpoint(tmp_path / "plain", config)
    (init / "tokenizer_config.json").write_text(json.dumps({"sep_token": token}))
    lines = []
    start = load_starting_point(replace(settings, init=str(init)), lines.append, [])
    assert start.conventions.sep_token_id == expected
    assert any("separator of question and answer" in line for line in lines) is is_new


def test_the_command(settings, base, questions):
    arguments = ["train-qagen", "--train", str(questions), "--init", str(base), "--cpu"]
    small = "--examples 4 --batch-tokens 150 --every 1 --bf16 off --cap town=5 --threads 1".split()
    views = ["--views", "window=0.5,answer_given=0.5", "--early-views", "window=1"]
    output = ["-o", str(settings.output), "--early-examples", "2"]
    result = CliRunner().invoke(app, [*arguments, *small, *views, *output])
    assert result.exit_code == 0, result.output
    assert "over the cap of town" in result.output
    assert f"wrote {settings.output}" in result.output
    assert json.loads((settings.output / "run.json").read_text())["examples"] == 4
