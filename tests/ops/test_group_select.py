"""One step of group selection: by hand, and the kernel against the reference, equal to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import DEVICE, needs_gpu, needs_no_triton, needs_triton
from quals_fast_kernels.group_select import GroupChoice, group_select_ref, group_select_triton
from quals_fast_kernels.group_select_host import group_select_host


def group_select_in_numpy(*tensors, **settings):
    arrays = [None if x is None else x.cpu().numpy() for x in tensors]
    chosen = group_select_host(*arrays, **settings)
    return GroupChoice(*(torch.from_numpy(part).to(DEVICE) for part in chosen))


@pytest.fixture(
    params=[
        pytest.param(group_select_ref, id="eager"),
        pytest.param(group_select_in_numpy, id="numpy"),
        pytest.param(group_select_triton, id="triton", marks=needs_triton),
    ]
)
def choose(request):
    def call(
        logprobs, rule, *, scores=None, groups=None, active=None, penalty=0.5, eos=3, ids=None
    ):
        logprobs = torch.tensor([logprobs], device=DEVICE)
        slots, width = logprobs.shape[1:]
        ids = torch.arange(width).expand(1, slots, width) if ids is None else torch.tensor([ids])
        scores = torch.zeros(1, slots) if scores is None else torch.tensor([scores])
        return request.param(
            logprobs,
            ids.to(DEVICE),
            scores.to(DEVICE),
            None if active is None else torch.tensor([active], device=DEVICE),
            rule=rule,
            num_beam_groups=groups or slots,
            penalty=penalty,
            eos_token_id=eos,
            vocab_size=9,
        )

    return call


def test_fairseq09_counts_both_choices_of_earlier_groups(choose):
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "fairseq09")
    assert found.token_ids[0].tolist() == [[0, 0], [1, 1]]
    assert found.scores.flatten().tolist() == pytest.approx([-1.0, -1.5, -1.1, -1.6])


def test_hamming_counts_only_the_token_that_continues(choose):
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "hamming")
    assert found.token_ids[0].tolist() == [[0, 1], [1, 0]]


def test_hamming_never_counts_eos_but_the_token_behind_it(choose):
    row = [-1.0, -1.1, -1.7, -0.1]
    found = choose([row, row], "hamming")
    assert found.token_ids[0].tolist() == [[3, 3], [0, 1]]


def test_a_group_that_has_stopped_penalises_nobody(choose):
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "hamming", active=[False, True])
    assert found.token_ids[0, :, 1].tolist() == [0, 1]


def test_ties_go_to_the_lowest_row_then_token(choose):
    row = [-1.0, -1.0, -1.0, -9.0]
    found = choose([row, row], "fairseq09", groups=1)
    assert found.beam_idx[0, :, 0].tolist() == [0, 0, 0, 1]
    assert found.token_ids[0, :, 0].tolist() == [0, 1, 2, 0]


def test_slots_are_interleaved_and_dead_ones_left_alone(choose):
    row = [-1.0, -1.1, -1.7, -1.9]
    dead = [0.0, 0.0, -torch.inf, -torch.inf]
    found = choose([row] * 4, "fairseq09", groups=2, scores=dead)
    assert found.beam_idx[0].tolist() == [[0, 1]] * 4
    assert found.candidate_idx[0, :, 0].tolist() == [0, 1, 2, 3]


def test_the_column_of_the_choice_is_told_where_ids_are_sparse(choose):
    found = choose([[-2.0, -1.0], [-1.0, -2.0]], "hamming", ids=[[4, 7], [0, 8]])
    assert found.token_ids[0, 0].tolist() == [7, 0]
    assert found.candidate_idx[0, 0].tolist() == [1, 0]


def inputs(batch, size, groups, width, *, kind="ties", is_active=False, seed=0, vocab=None):
    """Draw what a step takes; ids from few tokens, so that most penalties meet somebody."""
    random = torch.Generator().manual_seed(seed)
    vocab, shape = vocab or width + 3, (batch, size * groups)

    def uniform(*sizes):
        return torch.rand(sizes, generator=random)

    logprobs = -3 * uniform(*shape, width)
    scores = -2 * uniform(*shape)
    if kind == "ties":
        logprobs, scores = logprobs.round(), scores.round()  # -0.0 among them
    logprobs[uniform(*shape, width) < 0.15] = -torch.inf
    scores[uniform(*shape) < 0.2] = -torch.inf
    ids = uniform(*shape, vocab).argsort(-1)[..., :width].sort(-1).values
    active = uniform(batch, groups) < 0.6 if is_active else None
    return [None if x is None else x.to(DEVICE) for x in (logprobs, ids, scores, active)]


def settings_of(groups, rule="fairseq09", vocab=200, penalty=0.5, eos=2):
    return {
        "rule": rule,
        "num_beam_groups": groups,
        "penalty": penalty,
        "eos_token_id": eos,
        "vocab_size": vocab,
    }


def assert_same(found, expected):
    for name, ours, theirs in zip(expected._fields, found, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        worst = (ours != theirs).nonzero()[:1].tolist()
        assert torch.equal(ours, theirs), f"{name} differs first at (b, rank, group) {worst}"


@needs_triton
@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 5]),
    width=st.sampled_from([2, 3, 7, 16, 33]),
    rule=st.sampled_from(["fairseq09", "hamming"]),
    kind=st.sampled_from(["ties", "reals"]),
    is_active=st.booleans(),
    penalty=st.sampled_from([0.5, 0.0, 1.0, 0.7]),
    seed=st.integers(0, 2**31),
)
def test_kernel_equals_the_reference(size, groups, width, rule, kind, is_active, penalty, seed):
    case = inputs(2, size, groups, width, kind=kind, is_active=is_active, seed=seed)
    how = settings_of(groups, rule, penalty=penalty)
    assert_same(group_select_triton(*case, **how), group_select_ref(*case, **how))


@needs_triton
@pytest.mark.parametrize(
    ("rule", "size", "groups", "width"),
    [
        pytest.param("fairseq09", 1, 60, 120, id="paper"),
        pytest.param("hamming", 1, 60, 61, id="paper-hamming"),
        pytest.param("hamming", 1, 3, 128, id="one-block"),
        pytest.param("fairseq09", 1, 3, 129, id="one-block-plus-one"),
        pytest.param("fairseq09", 12, 1, 63, id="plain-beam-search"),
    ],
)
@pytest.mark.parametrize("kind", ["ties", "reals"])
def test_kernel_equals_the_reference_at_working_sizes(rule, size, groups, width, kind):
    case = inputs(1, size, groups, width, kind=kind, is_active=True, vocab=150)
    how = settings_of(groups, rule)
    assert_same(group_select_triton(*case, **how), group_select_ref(*case, **how))


@needs_triton
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize("fill", [-torch.inf, -1.0])
def test_kernel_takes_the_lowest_where_all_are_equal(rule, fill):
    logprobs, ids, scores, _ = inputs(1, 2, 3, 5)
    how = settings_of(3, rule)
    case = torch.full_like(logprobs, fill), ids, torch.zeros_like(scores), None
    assert_same(group_select_triton(*case, **how), group_select_ref(*case, **how))


@needs_triton
def test_kernel_takes_views():
    logprobs, ids, scores, active = inputs(3, 2, 5, 7)
    one = logprobs[:, :1].expand(-1, 10, -1), ids[:1, :1].expand(3, 10, -1)
    every_other = torch.stack([logprobs, logprobs], 2)[:, :, 0], ids
    for case in (one, every_other):
        assert_same(
            group_select_triton(*case, scores, active, **settings_of(5)),
            group_select_ref(*case, scores, active, **settings_of(5)),
        )


@needs_triton
def test_sentences_do_not_depend_on_one_another():
    case = inputs(4, 1, 5, 9, is_active=True)
    together = group_select_triton(*case, **settings_of(5, "hamming"))
    alone = group_select_triton(*(x[2:3] for x in case), **settings_of(5, "hamming"))
    assert_same(alone, type(together)(*(x[2:3] for x in together)))


@needs_triton
def test_no_sentence_is_no_choice():
    found = group_select_triton(*(inputs(0, 1, 2, 3)), **settings_of(2))
    assert [tuple(part.shape) for part in found] == [(0, 2, 2)] * 4


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rule": "greedy"}, ValueError, "`rule` must be 'fairseq09' or 'hamming'"),
        ({"num_beam_groups": 4}, ValueError, "`num_beam_groups` must divide the 6 slots"),
        ({"num_beam_groups": 0}, ValueError, "`num_beam_groups` must divide the 6 slots"),
        ({"logprobs": torch.zeros(6, 5)}, ValueError, "`logprobs` must have shape"),
        ({"logprobs": torch.zeros(2, 6, 1)}, ValueError, "at least 2 candidates a slot"),
        ({"logprobs": torch.zeros(2, 6, 5).half()}, TypeError, "`logprobs` must be torch.float32"),
        ({"token_ids": torch.zeros(2, 6, 5)}, TypeError, "`token_ids` must be torch.int64"),
        ({"beam_scores": torch.zeros(2, 3)}, ValueError, "`beam_scores` must have shape"),
        ({"active": torch.zeros(2, 3)}, TypeError, "`active` must be torch.bool"),
        ({"active": torch.zeros(2, 6).bool()}, ValueError, "`active` must have shape"),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    names = ("logprobs", "token_ids", "beam_scores", "active")
    arguments = dict(zip(names, inputs(2, 2, 3, 5), strict=True)) | settings_of(3)
    change = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises(error, match=message):
        group_select_triton(**(arguments | change))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        group_select_triton(*inputs(1, 1, 2, 3), **settings_of(2))


@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize(("rule", "width"), [("fairseq09", 120), ("hamming", 61)])
def test_a_cuda_graph_replays_the_kernel_on_new_inputs(rule, width):
    how = settings_of(60, rule)
    case = inputs(16, 1, 60, width, is_active=True, vocab=150)
    group_select_triton(*case, **how)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = group_select_triton(*case, **how)
    for seed in (1, 2, 3):
        new = inputs(16, 1, 60, width, is_active=True, vocab=150, seed=seed)
        for held, fresh in zip(case, new, strict=True):
            held.copy_(fresh)
        graph.replay()
        assert_same(found, group_select_ref(*new, **how))


@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("size", [1, 2, 3, 60])
def test_many_sentences_on_the_device_agree_every_time(size):
    groups = 60 // size
    case = inputs(200, size, groups, 63, vocab=90)
    expected = group_select_ref(*case, **settings_of(groups))
    for _ in range(20):  # a race between counting and reading would show in some of them
        assert_same(group_select_triton(*case, **settings_of(groups)), expected)
