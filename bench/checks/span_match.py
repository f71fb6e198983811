"""Do filter and selection on tensors keep the same pairs as those on the host, for any text?

    python -m bench.span_match --strings 1000000

Random summaries and answers (ASCII, accents, CJK, emoji, capital sigma, dotted I, combining marks,
white space of all kinds, bytes that are not UTF-8) go through a byte-level BPE of 256 bytes and
merges trained here. The exit code is 1 if the two differ, except where the tensor version reports
that it is unsure.
"""

from __future__ import annotations

import random
import sys
import time
from typing import NamedTuple

import torch
from quals_fast_kernels.span_match import span_match_ref, span_match_triton
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.shared.common import finish
from bench.shared.options import command_line
from quals_fast.decoding.rules import Hypotheses
from quals_fast.engine.filtering import keep_pairs
from quals_fast.engine.generation import read_back
from quals_fast.engine.selection import PairSelector
from quals_fast.models.checkpoint import Conventions
from quals_fast.models.tokenizer import QATokenizer, Source

NUM_BEAMS, BATCH, LENGTH = 8, 128, 24
SPECIAL = ["<pad>", "<sep>", "<unk>", "<s>", "</s>"]
PAD, SEP, _, BOS, EOS = range(5)
ALPHABETS = (
    "abcdeABCDE  ",
    "The queen opened Anne's bridge in 1962, lost 4 lives. ",
    "éÉèÈüÜñÑçÇåÅøØßẞÿŸ aE",
    "東京都北大日本語。 a",
    "\U0001f41d\U0001f600\U0001f469\u200d\U0001f469\ufe0f\U0001f1e9\U0001f1ea aA",
    "αβγδΑΒΓΔжЖџЏԱաႠⴀ\U00010400\U00010428\u01c4\u01c5\u01c6\u212a\u212b ",
    "e\u0301E\u0301a\u0308\u0345\u00b7\u02b0i\u0307I\u0131 ",
    " \t\n\u00a0\u2003\u3000\u0085\x1c\x00a",
    "a\ufffd\u00c3\u00a4\u00e2\u20ac A",
)
DOUBTFUL = "aA\u03c3\u03c2\u03a3 \u0130iI."  # one summary in fifty


class Group(NamedTuple):
    """A summary with what might have been generated from it."""

    summary: Source
    rows: list[list[int]]


class Texts:
    """Draws texts, and sequences of them.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator([self.text(60) for _ in range(5000)], trainer)
        self.vocab_size = model.get_vocab_size()
        self.conventions = Conventions(
            vocab_size=self.vocab_size,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=PAD,
            sep_token_id=SEP,
            decoder_start_token_id=EOS,
            forced_bos_token_id=BOS,
            masked_token_ids=(),
            max_source_tokens=1024,
            answer_match="text",
        )
        self.tokenizer = QATokenizer(model, self.conventions)

    def text(self, longest: int) -> str:
        """Draw letters of one alphabet, now and then of two."""
        letters = self.draw.choice(ALPHABETS)
        if self.draw.random() < 0.02:
            letters = DOUBTFUL
        elif self.draw.random() < 0.2:
            letters += self.draw.choice(ALPHABETS)
        return "".join(self.draw.choices(letters, k=self.draw.randint(1, longest)))

    def groups(self, number: int) -> list[Group]:
        """Draw summaries with `NUM_BEAMS` sequences each."""
        summaries = [self.text(60) for _ in range(number)]
        drawn = [self.answer(s) for s in summaries for _ in range(NUM_BEAMS)]
        questions = ["Who?", "who?", "who!", "WHEN", "ÉTÉ", "été", "\u01c4", "\u01c5", "E\u0301"]
        sources = self.tokenizer.encode([*summaries, *drawn, *questions])
        ids = [list(source.text_ids) for source in sources]
        asked = ids[-len(questions) :]
        groups = []
        for n in range(number):
            rows = []
            for k in range(NUM_BEAMS):
                answer_ids = self.damaged(ids[number + n * NUM_BEAMS + k], ids[n])
                question = self.draw.choice(asked)[: LENGTH // 3]
                room = LENGTH - 2 - len(question)
                rows.append([*question, SEP, *answer_ids[:room], EOS])
            groups.append(Group(sources[n], rows))
        return groups

    def answer(self, summary: str) -> str:
        """Cut a piece from the summary and change its case, or draw another text."""
        if self.draw.random() < 0.2:
            return self.text(6)
        start = self.draw.randrange(len(summary))
        piece = summary[start : start + self.draw.randint(1, 12)]
        return self.draw.choice((str, str.lower, str.upper, str.swapcase, str.title))(piece)

    def damaged(self, answer_ids: list[int], summary_ids: list[int]) -> list[int]:
        """Leave most answers; cut some within letters, and fill some with random tokens."""
        chance = self.draw.random()
        if chance < 0.15:
            start = self.draw.randrange(len(summary_ids))
            return summary_ids[start : start + self.draw.randint(1, 6)]
        if chance < 0.2:
            some = [self.draw.randrange(len(SPECIAL), self.vocab_size) for _ in range(3)]
            return [*answer_ids, *some][self.draw.randrange(4) :]
        return answer_ids


def hypotheses_of(groups: list[Group], draw: random.Random) -> Hypotheses:
    """Put sequences into tensors, with sums that are often equal."""
    shape = (len(groups), NUM_BEAMS, LENGTH)
    flat = [row for group in groups for row in group.rows]
    token_ids = torch.tensor([[*row, *[PAD] * (LENGTH - len(row))] for row in flat]).view(shape)
    lengths = torch.tensor([len(row) for row in flat]).view(shape[:2])
    sums = torch.tensor([float(draw.randint(-4, 0)) for _ in flat]).view(shape[:2])
    zeros = torch.zeros(shape)
    return Hypotheses(token_ids, lengths, zeros, zeros, sums, sums.double())


def main() -> None:
    """Draw, keep by both, compare."""
    parser = command_line(__doc__)
    parser.add_argument("--strings", type=int, default=100_000, help="number of answers to look up")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    span_match = span_match_triton if device.type == "cuda" else span_match_ref
    texts = Texts(arguments.seed)
    tokenizer, conventions = texts.tokenizer, texts.conventions
    selector = PairSelector(tokenizer, conventions, device, span_match)
    rounds = -(-arguments.strings // (NUM_BEAMS * BATCH))
    counts = {"summaries": 0, "unsure_summaries": 0, "kept": 0}
    host_s = tensor_s = 0.0
    different: list[dict[str, object]] = []
    for turn in track(range(rounds), description=span_match.__name__):
        groups = texts.groups(BATCH)
        hypotheses = hypotheses_of(groups, texts.draw)
        max_pairs = 4 if turn % 10 == 9 else None  # None shows what becomes of every answer
        start = time.perf_counter()
        encoded = selector.encode_summaries([group.summary for group in groups])
        there = Hypotheses(*(part.to(device) for part in hypotheses))
        selected = [part.tolist() for part in selector.select(there, encoded, max_pairs)]
        tensor_s += time.perf_counter() - start
        rows = zip(groups, read_back(hypotheses), *selected, strict=True)
        for group, candidates, order, n_kept, unsure in rows:
            start = time.perf_counter()
            kept = keep_pairs(candidates, group.summary, tokenizer, conventions, max_pairs)
            host_s += time.perf_counter() - start
            index = {id(row): n for n, row in enumerate(candidates)}
            expected = [index[id(pair.hypothesis)] for pair in kept]
            counts["summaries"] += 1
            counts["unsure_summaries"] += unsure
            counts["kept"] += len(expected)
            if not unsure and order[:n_kept] != expected:
                different.append({"summary": group.summary.text, "rows": group.rows})
    result = {
        "strings": counts["summaries"] * NUM_BEAMS,
        **counts,
        "different_summaries": len(different),
        "examples": different[:5],
        "implementation": span_match.__name__,
        "vocab_size": texts.vocab_size,
        "seed": arguments.seed,
        "host_s": round(host_s, 1),
        "tensors_s": round(tensor_s, 1),
    }
    finish("span_match", result, weights={})
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
