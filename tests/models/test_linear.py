"""oneDNN's linear layers against torch's own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quals_fast.models import linear
from quals_fast.models.linear import OneDnnLinear, onednn_pays, padded_rows, use_onednn

needs_onednn = pytest.mark.skipif(not onednn_pays(), reason="this torch has no oneDNN, or no MKL")


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.randn(1, 63), id="1 row"),
        pytest.param(lambda: torch.randn(0, 63), id="no row"),
        pytest.param(lambda: torch.randn(2, 5, 63), id="3 dimensions"),
        pytest.param(lambda: torch.randn(63, 49).t(), id="transposed"),
        pytest.param(lambda: torch.randn(7, 126)[:, ::2], id="strided"),
        pytest.param(lambda: torch.randn(63, 48).t(), id="transposed, a size of its own"),
        pytest.param(lambda: torch.randn(8, 126)[:, ::2], id="strided, a size of its own"),
    ],
)
def test_equals_torch(make, with_bias):
    x, weight = make().double(), torch.randn(1003, 63).double()
    bias = torch.randn(1003).double() if with_bias else None
    packed = OneDnnLinear(weight.float(), None if bias is None else bias.float())
    torch.testing.assert_close(
        packed(x.float()).double(), F.linear(x, weight, bias), atol=5e-5, rtol=1e-6
    )


@needs_onednn
@pytest.mark.parametrize("rows", [1, 2, 7, 63, 64, 65])
def test_a_row_does_not_depend_on_its_neighbours(rows):
    packed, x = OneDnnLinear(torch.randn(130, 96)), torch.randn(100, 96)
    torch.testing.assert_close(packed(x[:rows]), packed(x)[:rows], atol=1e-5, rtol=1e-6)


def test_few_numbers_of_rows_stand_for_many():
    sizes = [padded_rows(count) for count in range(1, 2001)]
    assert all(size % 8 == 0 and 0 <= size - n < max(8, n / 8) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 60


@needs_onednn
def test_rows_are_padded(monkeypatch):
    seen = []

    def pad(rows, widths):
        seen.append(len(rows) + widths[-1])
        return F.pad(rows, widths)

    monkeypatch.setattr(linear, "F", SimpleNamespace(pad=pad))
    packed = OneDnnLinear(torch.randn(3, 4))
    assert packed(torch.randn(3, 7, 4)).shape == (3, 7, 3)
    assert seen == [24]


@needs_onednn
def test_all_layers_of_a_network_are_packed_and_the_rest_stays():
    network = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 2)))
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = network(x)
        use_onednn(network)
        torch.testing.assert_close(network(x), before)
    kinds = {type(module) for module in network.modules()}
    assert kinds == {nn.Sequential, OneDnnLinear, nn.LayerNorm}
