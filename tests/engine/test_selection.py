"""The filter and the selection on tensors: equal to the host's, whatever the sequences say."""

import random
from pathlib import Path

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from quals_fast_kernels._compat import HAS_TRITON
from quals_fast_kernels.span_match import span_match_ref, span_match_triton
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode

import quals_fast
from quals_fast.decoding.rules import Hypotheses
from quals_fast.engine.filtering import keep_pairs
from quals_fast.engine.generation import read_back
from quals_fast.engine.selection import PairSelector, take_turns
from quals_fast.engine.textkeys import LetterReader, Parts, PieceReader, decode_utf8
from quals_fast.models.checkpoint import Conventions, read_checkpoint
from quals_fast.models.tokenizer import QATokenizer, Source

CPU = torch.device("cpu")
BUNDLED = Path(quals_fast.__file__).parent / "models" / "assets" / "qagen-mini"
WORDPIECE = "[PAD] [SEP0] [UNK] [BOS] [EOS] a b ab ##b ##a ##ab who ? ' . ## Q q n't Ä ä".split()
SPECIAL = {"pad": 0, "sep": 1, "bos": 3, "eos": 4}
LENGTH = 14


def conventions_of(vocab_size, match=None, forced_bos=SPECIAL["bos"]):
    return Conventions(
        vocab_size=vocab_size,
        bos_token_id=None,
        eos_token_id=SPECIAL["eos"],
        pad_token_id=SPECIAL["pad"],
        sep_token_id=SPECIAL["sep"],
        decoder_start_token_id=SPECIAL["eos"],
        forced_bos_token_id=forced_bos,
        masked_token_ids=(),
        max_source_tokens=64,
        answer_match=match,
    )


def wordpiece(match=None, words=WORDPIECE, cleanup=True, missing=2):
    """With `missing` ids of the model that are no tokens."""
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    conventions = conventions_of(len(vocab) + missing, match)
    return QATokenizer(tokenizer, conventions), conventions


def byte_level(match=None, merges=("a b", "Ġ a", "Ã ¤", "a Ì"), added=("\u20ac \u03a3",)):
    """Special ids 0 to 4, 256 bytes, merges (some end within a character), an added token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [tuple(merge.split()) for merge in merges]
    tokens = ["<pad>", "<sep>", "<unk>", "<s>", "</s>", *alphabet, *map("".join, pairs)]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    conventions = conventions_of(len(vocab) + len(added), match)
    return QATokenizer(tokenizer, conventions), conventions


def unigram(match=None, words=("▁a", "▁b", "a", "b", "ab", "▁", "A", "▁who", "?", "Ä", "ä▁b")):
    """T5's: SEP, EOS and PAD are added; `▁` is a space, but not at the beginning."""
    vocab = [(token, 0.0) for token in ("<pad>", "<sep>", "<unk>", "<s>", "</s>")]
    vocab += [(word, -float(n)) for n, word in enumerate(words, 1)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    conventions = conventions_of(len(vocab), match)
    return QATokenizer(tokenizer, conventions), conventions


class Case:
    """A tokenizer with its selector; compares tensors with the host."""

    def __init__(self, tokenizer, conventions, span_match=span_match_ref):
        self.tokenizer, self.conventions = tokenizer, conventions
        self.selector = PairSelector(tokenizer, conventions, CPU, span_match)
        self.reader = self.selector._reader
        self.vocab = tokenizer._tokenizer.get_vocab()
        self.frequent = [
            self.vocab[t] for t in ("a", "b", "ab", "##b", "A", "Ġ", "▁a", "▁") if t in self.vocab
        ]

    def ids(self, text):
        """Tokenise; or take tokens as they are, where a list of them is given."""
        return self.sources([text])[0].text_ids

    def sources(self, texts):
        """Summaries, each a text or a list of tokens."""
        return [
            Source("", [], [self.vocab.get(token, token) for token in text], 0, 0)
            if isinstance(text, list)
            else self.tokenizer.encode([text])[0]
            for text in texts
        ]

    def sequence(self, question, answer):
        return [*self.ids(question), SPECIAL["sep"], *self.ids(answer), SPECIAL["eos"]]

    def hypotheses(self, batch, length=LENGTH):
        """Rows of (ids, sum) for each summary; all the same number of rows."""
        shape = (len(batch), max(map(len, batch)), length)
        token_ids = torch.full(shape, SPECIAL["pad"])
        lengths, sums = torch.zeros(shape[:2], dtype=torch.int64), torch.zeros(shape[:2])
        for b, rows in enumerate(batch):
            for n, (ids, total) in enumerate(rows):
                token_ids[b, n, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
                lengths[b, n], sums[b, n] = len(ids), total
        zeros = torch.zeros(shape)
        return Hypotheses(token_ids, lengths, zeros, zeros, sums, sums.double())

    def by_host(self, hypotheses, summaries, max_pairs):
        found = []
        for b, (rows, summary) in enumerate(zip(read_back(hypotheses), summaries, strict=True)):
            filled = hypotheses.lengths[b].nonzero()[:, 0].tolist()
            index = {id(row): n for n, row in zip(filled, rows, strict=True)}
            (source,) = self.sources([summary])
            kept = keep_pairs(rows, source, self.tokenizer, self.conventions, max_pairs)
            found.append([index[id(pair.hypothesis)] for pair in kept])
        return found

    def by_tensors(self, hypotheses, summaries, max_pairs):
        encoded = self.selector.encode_summaries(self.sources(summaries))
        order, n_kept, unsure = self.selector.select(hypotheses, encoded, max_pairs)
        assert (order.sort().values == torch.arange(order.shape[1])).all()
        rows = zip(order.tolist(), n_kept.tolist(), unsure.tolist(), strict=True)
        return [None if u else row[:n] for row, n, u in rows]

    def check(self, batch, summaries, max_pairs=None, length=LENGTH, unsure=False):
        """Assert that both agree where the tensors are sure; return what they keep."""
        hypotheses = self.hypotheses(batch, length)
        host = self.by_host(hypotheses, summaries, max_pairs)
        found = self.by_tensors(hypotheses, summaries, max_pairs)
        for expected, got in zip(host, found, strict=True):
            assert got == expected or (unsure and got is None)
        return found


CASES = {
    "wordpiece": lambda: Case(*wordpiece()),
    "wordpiece-text": lambda: Case(*wordpiece("text", cleanup=False)),
    "byte-level": lambda: Case(*byte_level()),
    "byte-level-ids": lambda: Case(*byte_level("ids")),
    "unigram": lambda: Case(*unigram()),
    "unigram-ids": lambda: Case(*unigram("ids")),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def pieces():
    return CASES["wordpiece"]()


@pytest.fixture(scope="module")
def octets():
    return CASES["byte-level"]()


def rows_of(case):
    """Few tokens, so that questions and answers repeat; SEP often, special ones anywhere."""
    frequent = st.sampled_from(case.frequent)
    token = st.one_of(
        st.sampled_from([SPECIAL["sep"], SPECIAL["eos"], SPECIAL["pad"], SPECIAL["bos"]]),
        frequent,
        st.integers(2, case.conventions.vocab_size - 1),
    )
    part = st.lists(frequent, max_size=3)
    pair = st.tuples(part, part).map(lambda p: [*p[0], SPECIAL["sep"], *p[1], SPECIAL["eos"]])
    row = st.one_of(pair, pair, st.lists(token, max_size=LENGTH))
    return st.lists(st.tuples(row, st.integers(-3, 0).map(float)), min_size=12, max_size=12)


def test_random_sequences(case):
    texts = st.lists(st.text("abAB ?qQä", max_size=12), min_size=2, max_size=2)

    @effort(max_examples=60, deadline=None)
    @given(st.tuples(rows_of(case), rows_of(case)), texts, st.sampled_from([None, 1, 10]))
    def run(batch, summaries, max_pairs):
        case.check(batch, summaries, max_pairs, unsure=isinstance(case.reader, LetterReader))

    run()


@pytest.mark.parametrize("max_pairs", [None, 1, 2, 10])
def test_sixty_hypotheses_of_few_answers(case, max_pairs):
    draw = random.Random(max_pairs or 0)
    texts = ["a", "b", "ab", "a b", "who", "A"]
    for _ in range(5):
        rows = [
            (case.sequence(draw.choice(texts), draw.choice(texts)), draw.randint(-9, 0) / 4)
            for _ in range(60)
        ]
        (kept,) = case.check([rows], ["ab a b who A"], max_pairs)
        assert kept


def test_what_is_no_pair(case):
    a, sep, eos = case.ids("a"), SPECIAL["sep"], SPECIAL["eos"]
    rows = [
        [*a, eos],  # no SEP
        [*a, sep, *a, sep, *a, eos],  # two
        [*a, sep, eos],  # no answer
        [],  # not filled
        [sep, *a, eos],  # no question, but a pair
        [SPECIAL["bos"], *a, eos, sep, SPECIAL["pad"], *a, SPECIAL["bos"], *a],  # cleaned first
    ]
    kept = case.check([[(ids, -1.0) for ids in rows]], ["a aa ab"])
    assert set(kept[0]) <= {4, 5}
    assert 4 in kept[0]


def test_equal_texts_cut_differently(pieces, octets):
    cuts = [["ab"], ["a", "##b"]]
    rows = [(pieces.sequence(q, a), -1.0) for q in (["who"], ["who", "##"]) for a in cuts]
    # "who" and "who" + "" read alike, and so do "ab" and "a" + "b"; as ids, only "ab" is there.
    assert pieces.check([rows], ["ab"]) == [[0]]
    assert pieces.check([[*rows, (pieces.sequence(["Q"], ["ab"]), -2.0)]], ["ab"]) == [[0, 4]]
    rows = [(octets.sequence(q, a), -1.0) for q in (["a"], ["A"]) for a in (["ab"], ["a", "b"])]
    assert octets.check([rows], ["an ABBA"]) == [[0]]


def test_spaces_are_no_answer(octets):
    rows = [(octets.sequence("a", answer), -1.0) for answer in (" ", "\t\u2003 ", " b")]
    assert octets.check([rows], ["a \t\u2003 b"]) == [[2]]


def test_a_first_piece_reads_otherwise_than_later_ones(pieces):
    words = ["##", "##b", "a", "[UNK]"]
    rows = [(pieces.sequence(["who"], [w, v]), -1.0) for w in words for v in words]
    pieces.check([rows], ["a"])
    # An id that is no token does not make its successor a later one, and matches nothing.
    missing = pieces.conventions.vocab_size - 1
    rows = [(pieces.sequence(q, ["ab"]), -1.0) for q in (["who"], [missing, "who"])]
    rows.append((pieces.sequence(["a"], [missing, "ab"]), -1.0))
    assert pieces.check([rows], ["ab"]) == [[0]]


def test_what_stands_behind_a_length_does_not_matter(case):
    pair = case.sequence("a", "a")
    hypotheses = case.hypotheses([[(pair, -1.0)] * 3])
    hypotheses.token_ids[0, 0, len(pair) :] = SPECIAL["sep"]
    hypotheses.lengths[0, 1] = 0
    hypotheses.lengths[0, 2] = pair.index(SPECIAL["sep"]) + 1
    assert case.by_tensors(hypotheses, ["a"], None) == [[0]]
    assert case.by_host(hypotheses, ["a"], None) == [[0]]


def test_no_letter_is_lost_in_comparison(octets):
    questions = ["", "\0", "\0\0", "a", "a\0", "\0a", "b", "ba", "ab"]
    rows = [(octets.sequence(question, "b"), -1.0) for question in questions]
    assert octets.check([rows], ["b"]) == [list(range(len(questions)))]


def test_pieces_of_white_space_are_blank():
    reader = PieceReader([" ", "", "a", " a"], torch.tensor([True, True]))
    ids = torch.tensor([[[0, 0], [0, 1], [1, 0]]])
    none = torch.zeros_like(ids, dtype=torch.bool)
    parts = Parts(ids, in_question=none, is_sep=none, in_answer=~none)
    assert reader.read(parts).is_blank.tolist() == [[True, False, False]]


def test_invalid_utf8_is_replaced_as_the_decoder_does(octets):
    broken = [["Ã"], ["Ã", "Ã"], ["a", "Ì"], ["aÌ"], ["Ì", "Ģ"], ["ä"], ["Ã", "¤"], ["Ã¤"]]
    rows = [(octets.sequence(q, "b"), -1.0) for q in broken]
    assert octets.check([rows], ["b"])[0] is not None
    rows = [(octets.sequence("b", a), -1.0) for a in broken]
    assert octets.check([rows, rows], ["a\ufffd \ufffd\ufffdÄ", "a"])[0]


@pytest.mark.parametrize("text", ["\u0130", "a\u03a3", "\u03a3"])
def test_letters_that_depend_on_others_are_left_to_the_host(octets, text):
    sure = [(octets.sequence("a", "b"), -1.0)] * 2
    doubtful = [(octets.sequence("a", text), -1.0), (octets.sequence(text, "b"), -1.0)]
    assert octets.check([sure, doubtful], ["b", "b" + text], unsure=True) == [[0], None]
    # Sequences that are no pairs make nobody unsure.
    no_pair = [(octets.ids(text), -1.0), *sure[:1]]
    assert octets.check([no_pair], ["b" + text]) == [[1]]


def test_a_wordpiece_with_capital_sigma_is_left_to_the_host():
    case = Case(*wordpiece(words=[*WORDPIECE, "\u03a3", "\u0130", "i"]))
    rows = [(case.sequence([word], ["a"]), -1.0) for word in ("\u03a3", "\u0130")]
    assert case.check([rows[:1], rows[1:]], ["a", "a"], unsure=True) == [None, [0]]


def test_texts_too_long_to_assemble_are_left_to_the_host():
    case = Case(*byte_level(merges=["a a", "aa aa", "aaaa aaaa", "aaaaaaaa aaaaaaaa"]))
    long = ["a" * 16] * 8
    assert case.check([[(case.sequence("b", long), -1.0)]], ["a" * 200], unsure=True) == [None]
    assert case.check([[(case.sequence("b", long[:5]), -1.0)]], ["a" * 200]) == [[0]]


def test_an_unknown_decoder_leaves_all_to_the_host():
    tokenizer, conventions = wordpiece()
    tokenizer._tokenizer.decoder = decoders.BPEDecoder()
    case = Case(tokenizer, conventions)
    assert case.check([[(case.sequence(["a"], ["a"]), -1.0)]], ["a"], unsure=True) == [None]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level"])
def test_checkpoints_of_other_tests(kind, tiny_folder):
    tokenizer = {
        "wordpiece": tiny_models.wordpiece_tokenizer,
        "byte-level": tiny_models.byte_level_tokenizer,
    }[kind]()
    conventions = conventions_of(tokenizer.get_vocab_size(), forced_bos=None)
    case = Case(QATokenizer(tokenizer, conventions), conventions)
    words = ["queen", "anne", "Queen Anne", "the queen", "tower"]
    rows = [(case.sequence(q, a), -1.0) for q in words for a in words]
    assert len(case.check([rows], ["The Queen Anne tower"], None, length=32)[0]) > 9


def test_the_bundled_tokenizer(example_rows):
    _, conventions = read_checkpoint(BUNDLED)
    case = Case(QATokenizer.from_folder(BUNDLED, conventions), conventions)
    assert not case.reader._is_doubtful.any()  # its tokens are lower-cased: it is never unsure
    draw = random.Random(0)
    summaries = [row["summary"] for row in example_rows[:4]]
    batch = []
    for summary in summaries:
        ids, rows = case.ids(summary), []
        for _ in range(60):
            cuts = [draw.randrange(min(8, len(ids))) for _ in range(2)]
            question, answer = (ids[cut : cut + draw.randint(1, 2)] for cut in cuts)
            noise = [draw.randrange(conventions.vocab_size) for _ in range(draw.choice((0, 0, 3)))]
            end = [conventions.sep_token_id, *answer, conventions.eos_token_id]
            rows.append(([*noise, *question, *end], draw.randint(-9, 0) / 4))
        batch.append(rows)
    for max_pairs in (None, 1, 10):
        assert all(case.check(batch, summaries, max_pairs))


def test_decoding_utf8():
    draw = random.Random(0)
    marks = [0x20, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1]
    marks += [0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    rows = [[draw.choice(marks) for _ in range(12)] for _ in range(20_000)]
    code_points, is_start = decode_utf8(torch.nn.functional.pad(torch.tensor(rows), (0, 4)))
    for row, points, starts in zip(rows, code_points.tolist(), is_start.tolist(), strict=True):
        found = "".join(chr(c) for c, start in zip(points, starts, strict=True) if start)
        assert found == bytes(row).decode("utf-8", "replace") + "\0" * 4


def test_every_lower_case(octets):
    lower = octets.reader._lower.tolist()
    assert isinstance(octets.reader, LetterReader)
    doubtful = [c for c in range(0x110000) if lower[c] < 0]
    assert doubtful == [0x130, 0x3A3]
    assert all(chr(c).lower() == chr(lower[c]) for c in range(0x110000) if lower[c] >= 0)


def test_turns_without_pairs():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    same = torch.ones(2, 3, 3, dtype=torch.bool)
    for max_pairs in (None, 1):
        order, n_kept = take_turns(torch.zeros(2, 3), nothing, same, same, max_pairs)
        assert n_kept.tolist() == [0, 0]
        assert order.tolist() == [[0, 1, 2]] * 2


class NoHostReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name
        reads = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero")
        assert not any(word in name for word in reads), name
        if name == "aten::index":
            assert all(i is None or i.dtype is torch.int64 for i in args[1]), "a boolean index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("max_pairs", [None, 10])
def test_nothing_is_read_on_the_host(case, max_pairs):
    hypotheses = case.hypotheses([[(case.sequence("a", "a"), -1.0)] * 4])
    summaries = case.selector.encode_summaries(case.sources(["a"]))
    with NoHostReads():
        selection = case.selector.select(hypotheses, summaries, max_pairs)
    assert selection.n_kept.tolist() == [1]
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHostReads():
        selection.n_kept[0].item()


def test_a_summary_does_not_depend_on_its_neighbours(case):
    rows = [(case.sequence(q, a), -1.0) for q in ("a", "who") for a in ("a", "ab")]
    summaries = ["ab", "b", "a" * 100]
    batch = case.check([rows] * 3, summaries)
    assert batch == [case.check([rows], [summary])[0] for summary in summaries]


@pytest.mark.skipif(
    not HAS_TRITON or torch.cuda.is_available(), reason="needs Triton and no GPU (interpreter)"
)
@pytest.mark.parametrize("make", [wordpiece, byte_level, unigram])
def test_with_the_kernel(make):
    case = Case(*make(), span_match=span_match_triton)
    rows = [(case.sequence(q, a), -1.0) for q in ("a", "who") for a in ("a", "ab")]
    assert case.check([rows, rows], ["ab", "who a"]) is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [wordpiece, byte_level])
def test_in_a_cuda_graph(make):
    case, device = Case(*make()), torch.device("cuda")
    selector = PairSelector(case.tokenizer, case.conventions, device, span_match_triton)
    rows = [(case.sequence(q, a), -1.0) for q in ("a", "who") for a in ("a", "ab")]
    host = case.hypotheses([rows, rows])
    there = Hypotheses(*(part.cuda() for part in host))
    texts = ["ab", "who a"]
    summaries = selector.encode_summaries(case.sources(texts))
    selector.select(there, summaries, 10)  # compiles the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        selection = selector.select(there, summaries, 10)
    graph.replay()
    expected = case.selector.select(host, case.selector.encode_summaries(case.sources(texts)), 10)
    for one, other in zip(selection, expected, strict=True):
        assert one.cpu().equal(other)
