"""Measure the packed networks on SQuAD dev."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.progress import track
from tokenizers import Tokenizer
from transformers import BartConfig, BartForConditionalGeneration

from bench.recipes.qags_training.packing import ANSWERING, GENERATION
from bench.recipes.qags_training.question_generation import encode, token_losses
from bench.shared.common import finish
from bench.shared.weights import qags_weights
from quals_fast.batching import pad
from quals_fast.models.checkpoint import Conventions, read_checkpoint
from quals_fast.models.loading import model_folder
from quals_fast.qags.answering import (
    MAX_ANSWER_TOKENS,
    MAX_WINDOW_TOKENS,
    NO_ANSWER_THRESHOLD,
    STRIDE,
    Ask,
    QuestionAnswerer,
    Span,
)
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.results import StageWork
from quals_fast.qags.squad import answer_tokens, token_f1
from quals_fast.qags.weights import read_qags_weights
from quals_fast.training.qagen.corpus import Corpus, read_corpus
from quals_fast.training.qagen.views import Example, sentence_window, whole_passage

RESULT = "qags_models"
_BEAMS = 5
_ASKED_AT_ONCE = 256
_BATCH_TOKENS = 8_192
_T = TypeVar("_T")


def evaluate(data: Path, *, questions: int | None, round_trips: int, threads: int) -> None:
    """Write ``bench/results/qags_models.json``.

    Args:
        data: the folder of the shared data.
        questions: how many dev questions to answer, drawn at random; None takes all.
        round_trips: for how many answers to generate a question and answer it.
        threads: for torch.
    """
    torch.set_num_threads(threads)
    corpus = read_corpus([data / "qa_dev.jsonl.gz"])
    order = random.Random(0).sample(corpus.questions, len(corpus.questions))
    answerer = QuestionAnswerer(NetworkFiles.read(ANSWERING), device=torch.device("cpu"))
    generator = _generation(GENERATION)
    result: dict[str, Any] = {}

    asked = order[:questions]
    answered = _find(answerer, [Ask(q.text, corpus.passages[q.passage]) for q in asked])
    result["question_answering"] = {
        "questions": len(asked),
        "settings": f"windows of {MAX_WINDOW_TOKENS} tokens that start {STRIDE} apart, "
        f"answers of at most {MAX_ANSWER_TOKENS} tokens",
        "no_answer_never": _scores([f.text for f in answered], [q.answers for q in asked]),
        "no_answer_threshold_0": _scores(
            [_answer(f) for f in answered], [q.answers for q in asked]
        ),
        "no_answer_share": _no_answer_share(answered),
        "unanswerable": _unanswerable(answerer, corpus, len(asked)),
    }

    rng = random.Random(1)
    windows = [sentence_window(corpus, q, rng, extra=2, longest=50) for q in order]
    shown = {
        "sentence_windows": windows[: 3 * round_trips],
        "passages": [whole_passage(corpus, q, rng) for q in order[: 3 * round_trips]],
    }
    result["question_generation"] = {
        name: _perplexity(generator, examples) for name, examples in shown.items()
    }
    result["question_generation"]["round_trip"] = _round_trip(
        generator,
        answerer,
        windows[:round_trips],
    )
    finish(RESULT, result, weights=qags_weights())


def _find(answerer: QuestionAnswerer, asks: Sequence[Ask]) -> list[Span]:
    """Put questions to texts as QAGS does.

    Raises:
        RuntimeError: the network gives NaN.
    """
    answers = [
        one
        for part in track(_parts(asks, _ASKED_AT_ONCE), "answering")
        for one in answerer.find(part, StageWork(), max_batch_tokens=_BATCH_TOKENS)
    ]
    if None in answers:
        raise RuntimeError("the question-answering network returned NaN; train it again")
    return [one for one in answers if one is not None]


def _answer(one: Span) -> str:
    return "" if one.no_answer_margin > NO_ANSWER_THRESHOLD else one.text


def _no_answer_share(answers: Sequence[Span]) -> float:
    return _mean([float(one.no_answer_margin > NO_ANSWER_THRESHOLD) for one in answers])


class _Generator(NamedTuple):
    network: Any
    tokenizer: Tokenizer
    conventions: Conventions


def _generation(folder: Path) -> _Generator:
    config, weights, file = read_qags_weights(folder)
    network = BartForConditionalGeneration(BartConfig(**config)).eval()
    network.load_state_dict(weights, strict=False)
    network.tie_weights()
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    conventions = read_checkpoint(model_folder(config["adapter"]["base"]))[1]
    return _Generator(network, tokenizer, conventions)


def _unanswerable(answerer: QuestionAnswerer, corpus: Corpus, count: int) -> dict[str, Any]:
    """Ask questions of another passage of the same article: how often is "no answer" said?"""
    rng = random.Random(2)
    asked = []
    for question in rng.sample(corpus.questions, min(count, len(corpus.questions), 1_000)):
        text = corpus.passages[rng.choice(corpus.related(question.passage))]
        if not any(answer.lower() in text.lower() for answer in question.answers):
            asked.append(Ask(question.text, text))
    return {"questions": len(asked), "no_answer_share": _no_answer_share(_find(answerer, asked))}


@torch.inference_mode()
def _perplexity(generator: _Generator, examples: Sequence[Example]) -> dict[str, Any]:
    network, tokenizer, conventions = generator
    pairs = [encode(tokenizer, conventions, e.text, e.answer, e.question) for e in examples]
    pairs.sort(key=len)
    losses = [
        token_losses(network, conventions, batch) for batch in track(_parts(pairs, 16), "reading")
    ]
    nats = float(torch.cat(losses).mean())
    return {
        "questions": len(pairs),
        "nats_per_token": round(nats, 4),
        "perplexity": round(math.exp(nats), 3),
    }


@torch.inference_mode()
def _round_trip(
    generator: _Generator, answerer: QuestionAnswerer, examples: list[Example]
) -> dict[str, Any]:
    """Generate a question for an answer, answer it on the same text, compare the answers."""
    network, tokenizer, conventions = generator
    questions = []
    for batch in track(_parts(examples, 16), "asking"):
        sources = [encode(tokenizer, conventions, e.text, e.answer).source for e in batch]
        source, mask = pad(sources, conventions.pad_token_id, torch.device("cpu"))
        written = network.generate(
            input_ids=source,
            attention_mask=mask.long(),
            num_beams=_BEAMS,
            min_new_tokens=5,
            max_new_tokens=40,
            do_sample=False,
        )
        for ids in written.tolist():
            text = tokenizer.decode(ids, skip_special_tokens=True)
            questions.append(text.split("?")[0].strip() + " ?")
    return _compared(answerer, examples, questions) | {
        "beams": _BEAMS,
        "with_human_questions": _compared(
            answerer, examples, [example.question for example in examples]
        ),
        "samples": [
            {"answer": e.answer, "question": q, "human": e.question}
            for e, q in list(zip(examples, questions, strict=True))[:8]
        ],
    }


def _compared(
    answerer: QuestionAnswerer, examples: list[Example], questions: list[str]
) -> dict[str, Any]:
    asks = [Ask(q, example.text) for q, example in zip(questions, examples, strict=True)]
    answered = _find(answerer, asks)
    scores = [token_f1(_answer(f), e.answer) for f, e in zip(answered, examples, strict=True)]
    return {
        "questions": len(scores),
        "share_f1_at_least_half": _mean([float(score >= 0.5) for score in scores]),
        "mean_f1": _mean(scores),
        "no_answer_share": _no_answer_share(answered),
    }


def exact_match(answer: str, right: Iterable[str]) -> float:
    """Return 1 if a right answer is the same but for case, articles and punctuation."""
    return float(any(answer_tokens(answer) == answer_tokens(one) for one in right))


def f1(answer: str, right: Iterable[str]) -> float:
    """Return the best word F1 with a right answer (1 if both are empty)."""
    return max(token_f1(answer, one) for one in right)


def _scores(answers: Sequence[str], right: Sequence[tuple[str, ...]]) -> dict[str, float]:
    pairs = list(zip(answers, right, strict=True))
    return {
        "exact_match": round(100 * _mean([exact_match(*pair) for pair in pairs]), 2),
        "f1": round(100 * _mean([f1(*pair) for pair in pairs]), 2),
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _parts(items: Sequence[_T], size: int) -> list[list[_T]]:
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
