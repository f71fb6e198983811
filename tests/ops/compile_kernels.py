"""Compile every kernel for a GPU that is not there: ``python compile_kernels.py 90 float16``.

The launchers run as ever, on CPU tensors, and stop where they would launch. Prints a name a line.
"""

import sys

import torch
from quals_fast_kernels._histories import Candidates, Histories
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from quals_fast.ops import TRITON

SHARED_BYTES = 99 * 2**10  # for a program on sm_86 and sm_89, which have least
TOKENS, WIDTH, BEAMS, HEADS, LENGTH = 50_265, 1024, 60, 16, 61


class Driver:
    """As much of a GPU's driver as the compiler asks for."""

    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_attention(dtype):
    query = torch.zeros(1, BEAMS, HEADS, 64, dtype=dtype)
    store = torch.zeros(2, 1, BEAMS, HEADS, LENGTH, 64, dtype=dtype)
    for length in (1, 20):
        index = torch.zeros(1, BEAMS, LENGTH, dtype=torch.int64)
        for bias in (None, torch.zeros(HEADS, length, dtype=dtype)):
            TRITON.beam_attention(query, query, query, *store, index, length, bias)
    for tokens in (1, 128, 1024):
        source = torch.zeros(2, 1, tokens, HEADS, 64, dtype=dtype).transpose(2, 3)
        by_distance = torch.zeros(HEADS, BEAMS + tokens - 1, dtype=dtype)
        for bias in (None, by_distance) if tokens == 128 else (None,):
            TRITON.source_attention(query, *source, torch.ones(1, 1, 1, tokens).bool(), bias)


def compile_all():
    for dtype in (getattr(torch, name) for name in sys.argv[2:]):
        compile_attention(dtype)
        for rows in (60, 960):  # each has tiles of its own
            hidden = torch.zeros(rows, WIDTH, dtype=dtype)
            head = hidden, torch.zeros(TOKENS, WIDTH, dtype=dtype), torch.zeros(TOKENS)
            TRITON.lm_head_topk(*head, 120, (1, 2))
            TRITON.linear_logprob(*head, torch.zeros(rows, dtype=torch.int64))
        weight = torch.zeros(4 * WIDTH, WIDTH, dtype=dtype)
        bias = torch.zeros(4 * WIDTH, dtype=dtype)
        for rows in (60, 120, 960):
            TRITON.linear_gelu(torch.zeros(rows, WIDTH, dtype=dtype), weight, bias)
        norm = torch.zeros(2, WIDTH, dtype=dtype)
        TRITON.add_layer_norm(*hidden.new_zeros(2, BEAMS, WIDTH), *norm, 1e-5)
    for rule, width in (("fairseq09", 120), ("hamming", 61)):
        TRITON.group_select(
            torch.zeros(2, BEAMS, width),
            torch.zeros(2, BEAMS, width, dtype=torch.int64),
            torch.zeros(2, BEAMS),
            torch.ones(2, BEAMS, dtype=torch.bool),
            rule=rule,
            num_beam_groups=BEAMS,
            penalty=0.5,
            eos_token_id=2,
            vocab_size=TOKENS,
        )
    ids, numbers = torch.zeros(2, BEAMS, LENGTH).long(), torch.zeros(2, BEAMS, LENGTH)
    histories = Histories(ids, numbers, numbers)
    row, score = torch.zeros(2, BEAMS).long(), torch.zeros(2, BEAMS)
    chosen = Candidates(row, row, score, score, score)
    finished = ids, row, numbers, numbers, score, score.double()
    for t in (0, 1, 17):
        TRITON.move_slots(histories, chosen, row, t)
        TRITON.store_finished(finished, histories, chosen, score.double(), row, t)
    texts = torch.zeros(2, 64, dtype=torch.int32), torch.ones(2, dtype=torch.int64)
    needles = torch.zeros(2, BEAMS, 61, dtype=torch.int32)
    TRITON.span_match(*texts, needles, torch.ones(2, BEAMS, dtype=torch.int64))


def main():
    driver.set_active(Driver())
    run = JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **named):
        kernel = run(self, *arguments, grid=grid, warmup=True, **named)
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= SHARED_BYTES, f"{self.__name__}: {kernel.metadata.shared}"
        print(self.__name__)
        return kernel

    JITFunction.run = compile_only
    compile_all()


if __name__ == "__main__":
    main()
