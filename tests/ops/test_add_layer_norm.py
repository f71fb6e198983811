"""LayerNorm of a residual sum, against float64."""

import pytest
import torch
from op_cases import (
    DEVICE,
    eager_and_triton,
    error,
    errs_no_more_than_eager,
    needs_gpu,
    needs_no_triton,
    needs_triton,
)
from quals_fast_kernels.add_layer_norm import (
    add_layer_norm_ref,
    add_layer_norm_triton,
)
from torch.nn import functional as F

EPS = 1e-5
both = eager_and_triton("normalise", add_layer_norm_ref, add_layer_norm_triton)

SHAPES = [
    pytest.param((1, 1), id="N1-d1"),
    pytest.param((3, 63), id="N3-d63"),
    pytest.param((60, 64), id="N60-d64"),
    pytest.param((2, 3, 5, 65), id="B2-Q3-T5-d65"),
    pytest.param((2, 1024), id="N2-d1024"),
    pytest.param((2, 4096), id="N2-d4096"),
]


def inputs(*shape, dtype=torch.float32):
    x, residual = torch.randn(2, *shape)
    weight, bias = torch.randn(2, shape[-1])
    return *(part.to(DEVICE, dtype) for part in (x, 3 * residual + 1, weight, bias)), EPS


def truth(x, residual, weight, bias, eps):
    x, residual, weight, bias = (part.double().cpu() for part in (x, residual, weight, bias))
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definition(normalise, shape):
    case = inputs(*shape)
    found = normalise(*case)
    assert found.dtype == torch.float32
    assert error(found, truth(*case)) <= 1e-5


def check_half_precision(dtype, shape):
    case = inputs(*shape, dtype=dtype)
    errs_no_more_than_eager(add_layer_norm_triton, add_layer_norm_ref, truth(*case), case)


@needs_triton
@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_errs_no_more_than_eager(shape):
    check_half_precision(torch.float16, shape)


# The interpreter truncates to bfloat16 where a device rounds, so bfloat16 is tested only here.
@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(960, 1024), (3361, 768), (7, 1003)], ids=str)
def test_half_precision_errs_no_more_than_eager_on_the_device(dtype, shape):
    check_half_precision(dtype, shape)


@both
@pytest.mark.parametrize("dims", [1, 2], ids=["d", "T-d"])
def test_a_residual_of_fewer_dimensions_is_added_to_all(normalise, dims):
    x, residual, *norm = inputs(2, 3, 5, 32)
    residual = residual[0, 0] if dims == 2 else residual[0, 0, 0]
    case = x, residual, *norm
    assert error(normalise(*case), truth(*case)) <= 1e-5


@needs_triton
def test_views_with_strides_are_taken():
    x, _, *norm = inputs(9, 4, 32)
    residual = torch.randn(4, 9, 32, device=DEVICE).transpose(0, 1)
    for case in ((x[:, 2], residual[:, 1], *norm), (x[::2], residual[::2], *norm)):
        assert error(add_layer_norm_triton(*case), truth(*case)) <= 1e-5


@needs_triton
def test_a_row_does_not_depend_on_the_others():
    x, residual, *norm = inputs(5, 96)
    together = add_layer_norm_triton(x, residual, *norm)
    assert torch.equal(add_layer_norm_triton(x[3:4], residual[3:4], *norm), together[3:4])


@needs_triton
def test_rows_of_one_value_and_of_large_values_are_normalised():
    x, residual, weight, bias, eps = inputs(2, 64)
    x[0], residual[0] = 3.0, 4.0
    x[1] += 10_000
    found = add_layer_norm_triton(x, residual, weight, bias, eps)
    assert torch.equal(found[0], bias)
    case = x[1:], residual[1:], weight, bias, eps
    rounding = error(add_layer_norm_ref(*case), truth(*case))
    assert error(found[1:], truth(*case)) <= 2 * rounding + 1e-5


@needs_triton
def test_no_row_is_no_result():
    assert add_layer_norm_triton(*inputs(0, 8)).shape == (0, 8)


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": torch.zeros(8)},
            ValueError,
            r"`x` must have shape \(..., d\) with d from 1 to 8192",
        ),
        ({"x": torch.zeros(2, 0)}, ValueError, r"d from 1 to 8192, but got \(2, 0\)"),
        ({"x": torch.zeros(2, 8193)}, ValueError, r"d from 1 to 8192, but got \(2, 8193\)"),
        ({"x": torch.zeros(2, 8).double()}, TypeError, "`x` must be torch.float32"),
        ({"x": torch.zeros(8, 2).T}, ValueError, "`x` must be contiguous in its last dimension"),
        ({"residual": torch.zeros(3, 8)}, ValueError, "`residual` must have shape"),
        ({"residual": torch.zeros(1, 2, 8)}, ValueError, "`residual` must have shape"),
        ({"residual": torch.zeros(())}, ValueError, "`residual` must have shape"),
        ({"residual": torch.zeros(2, 8).half()}, TypeError, "`residual` must be torch.float32"),
        ({"weight": torch.zeros(7)}, ValueError, "`weight` must have shape"),
        ({"bias": torch.zeros(8).half()}, TypeError, "`bias` must be torch.float32"),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    names = ("x", "residual", "weight", "bias", "eps")
    arguments = dict(zip(names, inputs(2, 8), strict=True))
    change = {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(error, match=message):
        add_layer_norm_triton(**(arguments | change))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        add_layer_norm_triton(*inputs(1, 8))
