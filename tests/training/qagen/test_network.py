"""The network in training: what is faster is the same as what says it in a few lines."""

import pytest
import tiny_models
import torch
from transformers import BartConfig

from quals_fast.training.qagen.attention import BatchedAttention
from quals_fast.training.qagen.encoding import Pair
from quals_fast.training.qagen.network import (
    BartForConditionalGeneration,
    Collator,
    TokenNats,
    target_states,
)

EOS = tiny_models.CONFIG["eos_token_id"]


def gradients(found, inputs):
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return torch.autograd.grad((found * weights).sum(), inputs)


def test_nats_and_their_gradients_are_those_of_cross_entropy():
    hidden, weight = (torch.randn(n, 16, requires_grad=True) for n in (150, 99))
    bias, targets = torch.zeros(99), torch.randint(4, 99, (150,))
    bias[3] = -torch.inf
    expected = TokenNats.reference(hidden, weight, bias, targets)
    found = TokenNats.apply(hidden, weight, bias, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        gradients(found, (hidden, weight)), gradients(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("sizes", [(5, 7), (1, 1), (40, 3)], ids=str)
def test_attention_and_its_gradients_are_those_of_the_reference(sizes, masked):
    queries, keys = sizes
    inputs = [torch.randn(2, 3, n, 4, requires_grad=True) for n in (queries, keys, keys)]
    mask = torch.zeros(2, 1, queries, keys) if masked else None
    if mask is not None and keys > 1:
        mask[1, :, :, -1] = torch.finfo(torch.float32).min
    expected = BatchedAttention.reference(*inputs, mask, 0.5)
    found = BatchedAttention.apply(*inputs, mask, 0.5, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_attention_drops_a_share_and_keeps_the_mean():
    """With values of 1, what comes out is the sum of the kept shares: 1 on average."""
    query, key = (torch.randn(50, 4, 20, 8, requires_grad=True) for _ in range(2))
    value = torch.ones(50, 4, 20, 8, requires_grad=True)
    found = BatchedAttention.apply(query, key, value, None, 0.3, 0.25)
    assert found.mean().item() == pytest.approx(1, abs=0.02)
    assert found.std().item() > 0.05
    # The output is linear in the values, so this holds for whatever was dropped.
    (of_value,) = torch.autograd.grad(found.sum(), value, retain_graph=True)
    assert (of_value * value).sum().item() == pytest.approx(found.sum().item(), rel=1e-5)


def test_a_frozen_vocabulary_costs_no_gradient():
    hidden, weight = torch.randn(5, 16, requires_grad=True), torch.randn(99, 16)
    targets = torch.randint(0, 99, (5,))
    found = TokenNats.apply(hidden, weight, torch.zeros(99), targets)
    expected = TokenNats.reference(hidden, weight, torch.zeros(99), targets)
    torch.testing.assert_close(
        gradients(found, hidden), gradients(expected, hidden), atol=1e-4, rtol=1e-4
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = BartConfig(**{**tiny_models.CONFIG, "forced_eos_token_id": None, "dropout": 0.0})
    return BartForConditionalGeneration(config).train()


def test_bfloat16_errs_at_most_twice_as_much_as_by_the_references(network, monkeypatch):
    """Gradients under autocast, by the own operators and by PyTorch's, against float64."""
    pairs = [Pair([3, *[8, 9, 7] * 9, EOS], [8, 1, 9, EOS, 10, 1, 11, EOS]) for _ in range(4)]
    batch = Collator(network.config.pad_token_id)(pairs)
    parameters = [*network.parameters()]

    def found(kind):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
            loss = network(**batch)["loss"]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()

    own = found(torch.bfloat16)
    exact = found(torch.float32)
    monkeypatch.setattr(TokenNats, "apply", TokenNats.reference)
    monkeypatch.setattr(
        BatchedAttention, "apply", lambda q, k, v, m, scale, _: BatchedAttention.reference(
            q, k, v, None if m is None else m.to(q.dtype), scale
        )
    )  # fmt: skip
    torch.testing.assert_close(found(torch.float32), exact, atol=1e-6, rtol=1e-4)
    by_torch = found(torch.bfloat16)
    assert (own - exact).norm() <= 2 * (by_torch - exact).norm()
    assert (own - exact).norm() < 0.1 * exact.norm()


def test_targets_in_one_row_do_not_see_each_other(network):
    """Loss and gradients are those of the same targets in rows of their own."""
    sources, targets = [[3, 8, 9, EOS], [3, 7, EOS]], [[8, 1, 9, EOS], [10, 11, EOS], [12, 1, EOS]]
    collate = Collator(network.config.pad_token_id)
    packed = [Pair(sources[0], targets[0] + targets[1]), Pair(sources[1], targets[2])]
    alone = [Pair(sources[n], target) for n, target in zip((0, 0, 1), targets, strict=True)]
    found = [network(**collate(pairs)) for pairs in (packed, alone)]
    assert found[0]["tokens"] == found[1]["tokens"] == 10
    torch.testing.assert_close(found[0]["loss"], found[0]["nats"] / 10)
    torch.testing.assert_close(found[0]["nats"], found[1]["nats"], atol=1e-5, rtol=1e-6)
    one, other = (torch.autograd.grad(each["loss"], network.parameters()) for each in found)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("masked", [[], [2, 40]], ids=["all tokens", "some masked"])
def test_labels_are_smoothed_as_by_cross_entropy(network, masked):
    """Loss and gradients; masked tokens are outside the vocabulary."""
    pairs = [Pair([3, 8, EOS], [8, 9, 1, 10, EOS]), Pair([3, 7, 9, EOS], [9, 7, EOS])]
    batch = Collator(network.config.pad_token_id)(pairs)
    with torch.no_grad():
        network.final_logits_bias.normal_()
        network.final_logits_bias[:, masked] = -torch.inf
    kept = [token for token in range(network.config.vocab_size) if token not in masked]
    hidden, targets = target_states(network, **batch)
    logits = (network.lm_head(hidden) + network.final_logits_bias)[:, kept]
    places = torch.tensor([kept.index(target) for target in targets])
    expected = torch.nn.functional.cross_entropy(logits, places, label_smoothing=0.1)
    plain = network(**batch)
    network.label_smoothing = 0.1
    found = network(**batch)
    assert found["nats"] == plain["nats"]
    torch.testing.assert_close(found["loss"], expected, atol=1e-5, rtol=1e-5)
    one, other = (
        torch.autograd.grad(each, network.parameters()) for each in (found["loss"], expected)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
