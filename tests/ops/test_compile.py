"""Kernels compile for GPUs that are not here: the interpreter takes what the compiler does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from quals_fast_kernels._compat import HAS_TRITON

SCRIPT = Path(__file__).with_name("compile_kernels.py")
SLOW = pytest.mark.slow
KERNELS = {
    "_add_layer_norm_kernel", "_source_attention_kernel",
    "_beam_attention_kernel", "_combine_kernel", "_group_select_kernel", "_linear_gelu_kernel",
    "_linear_logprob_kernel", "_lm_head_kernel", "_move_slots_kernel", "_select_kernel",
    "_span_match_kernel", "_store_finished_kernel",
}  # fmt: skip


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        pytest.param("90", ["float16"], id="sm_90, float16"),
        pytest.param("90", ["bfloat16", "float32"], id="sm_90, other types", marks=SLOW),
        pytest.param("80", ["float16", "bfloat16", "float32"], id="sm_80", marks=SLOW),
    ],
)
def test_every_kernel_compiles(capability, dtypes, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, str(SCRIPT), capability, *dtypes],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) == KERNELS
