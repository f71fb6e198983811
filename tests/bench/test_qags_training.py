"""What the training of QAGS's networks shows them, and that packing keeps what was learnt."""

import gzip
import json
import random

import pytest
import tiny_models
import torch
from tokenizers import processors
from transformers import BartConfig, BartForConditionalGeneration

from bench.recipes.qags_training import evaluation, loop, packing, question_answering
from bench.recipes.qags_training.data import unanswerable
from bench.recipes.qags_training.question_generation import QuestionTask, adapted_network, encode
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.qags.weights import read_qags_weights
from quals_fast.training.qagen.corpus import read_corpus
from quals_fast.training.qagen.views import (
    MAX_PASSAGE_WORDS,
    Example,
    sentence_window,
    sentences,
    whole_passage,
)

BRIDGE = "The bridge was opened by Queen Anne. It cost forty four lives! A tower closed in 1969."
RIVER = "The river of the town was closed in 1962. " + "A king won a game. " * 80


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {
            "source": "squad1.1-train",
            "title": "Bridge",
            "context": context,
            "qas": [{"q": " who ? ", "a": answer, "s": context.find(answer), **more}],
        }
        for context, answer, more in [
            (BRIDGE, "Queen Anne", {"alts": ["Queen Anne", "Anne"]}),
            (RIVER, "1962", {}),
            (BRIDGE, "The", {"amb": True}),
            (BRIDGE, "", {}),
        ]
    ]
    path = tmp_path / "qa.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return read_corpus([path])


def test_questions_without_a_place_are_left_out(corpus):
    assert [(q.text, q.answer) for q in corpus.questions] == [
        ("who ?", "Queen Anne"),
        ("who ?", "1962"),
    ]
    assert corpus.questions[0].answers == ("Queen Anne", "Anne")


def test_sentences_cover_the_text():
    spans = sentences(BRIDGE)
    assert [BRIDGE[a:b].strip() for a, b in spans] == [
        "The bridge was opened by Queen Anne.",
        "It cost forty four lives!",
        "A tower closed in 1969.",
    ]
    assert sentences("") == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [0, 1])
def test_views_hold_the_answer(corpus, number, seed):
    question = corpus.questions[number]
    for example in (
        sentence_window(corpus, question, random.Random(seed), extra=2, longest=60),
        whole_passage(corpus, question, random.Random(seed)),
    ):
        assert example.text[example.start :].startswith(question.answer)
        assert len(example.text.split()) <= MAX_PASSAGE_WORDS


def test_unanswerable_texts_hold_no_answer(corpus):
    shown = [unanswerable(corpus, corpus.questions[0], random.Random(i)) for i in range(12)]
    texts = [example.text for example in shown if example is not None]
    assert any(text.startswith("It cost") for text in texts)
    assert any(text.startswith("The river") for text in texts)
    assert not any("Anne" in text for text in texts)


def test_spans_and_no_answer_in_tokens(corpus):
    tokenizer = tiny_models.wordpiece_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    example = sentence_window(corpus, corpus.questions[0], random.Random(0), extra=0, longest=9)
    encoded = question_answering.encode(tokenizer, example)
    first, last = encoded.span
    tokens = [tokenizer.id_to_token(i) for i in encoded.input_ids]
    assert tokens[first : last + 1] == ["queen", "anne"]
    nothing = Example("who ?", "the tower", "", -1)
    assert question_answering.encode(tokenizer, nothing).span == (0, 0)


@pytest.mark.parametrize(
    ("found", "right", "score"),
    [
        ("the Queen, Anne", ["queen anne"], 1.0),
        ("queen", ["queen anne", "king"], 2 / 3),
        ("", ["queen"], 0.0),
        ("", [""], 1.0),
        ("tower tower", ["tower"], 2 / 3),
    ],
    ids=["normal", "best", "none", "both-empty", "counted-once"],
)
def test_word_f1(found, right, score):
    assert evaluation.f1(found, right) == pytest.approx(score)


def test_training_goes_on_from_its_checkpoint(corpus, tmp_path, monkeypatch):
    """The adapter learns, and what is packed is what was learnt."""
    monkeypatch.setattr(loop, "_BATCHES_PER_POOL", 2)
    base = tiny_models.write_checkpoint(tmp_path / "base")
    tokenizer = tiny_models.wordpiece_tokenizer()
    threads = torch.get_num_threads()

    def run(name, examples, minutes=None):
        recipe = loop.Recipe(
            examples=examples,
            minutes=minutes,
            batch_size=2,
            learning_rate=1e-2,
            seed=1,
            threads=threads,
        )
        task = QuestionTask(corpus, tokenizer, base)
        return task, torch.load(loop.train(task, recipe, tmp_path / name), weights_only=True)

    _, first = run("a", 4)
    task, second = run("a", 12)
    assert (first["done"], second["done"]) == (4, 12)
    assert any(not torch.equal(first["weights"][n], w) for n, w in second["weights"].items())
    assert run("b", 12, minutes=1e-6)[1]["done"] == 0

    monkeypatch.setattr(packing, "GENERATION", tmp_path / "packed")
    packing.pack_generation(tmp_path / "a" / "checkpoint.pt", base)
    config, weights, _ = read_qags_weights(tmp_path / "packed")
    packed = BartForConditionalGeneration(BartConfig(**config)).eval()
    packed.load_state_dict(weights, strict=False)
    packed.tie_weights()
    trained = adapted_network(base, torch.float32).eval()
    trained.load_state_dict(second["weights"], strict=False)
    pair = encode(tokenizer, read_checkpoint(base)[1], BRIDGE, "queen anne", "who opened ?")
    inputs = {"input_ids": torch.tensor([pair.source])}
    inputs["decoder_input_ids"] = torch.tensor([[4, *pair.target[:-1]]])
    with torch.inference_mode():
        got, want = packed(**inputs).logits, trained(**inputs).logits
        plain = adapted_network(base, torch.float32).eval()(**inputs).logits
    assert (got - want).abs().max() < (plain - want).abs().max() / 20
    assert task.size == 2
