"""The engine of a GPU, run on a CPU by the eager kernels."""

from dataclasses import replace

import torch

from quals_fast import QualsScorer
from quals_fast.engine.gpu import GpuEngine
from quals_fast.models.lm_head import LMHead
from quals_fast.models.loading import load_model
from quals_fast.models.precision import PRECISIONS
from quals_fast.ops import EAGER


def in_fixed_shapes(scorer, conventions=None, bias=None, **settings):
    """A scorer of the same model and settings that takes a GPU's pass."""
    model = scorer.engine.model
    network = model.network
    head = LMHead(
        network.lm_head_weight, network.final_logits_bias if bias is None else bias, EAGER
    )
    model = replace(model, head=head, conventions=conventions or model.conventions)
    engine = GpuEngine(model, **settings)
    return QualsScorer(engine, decoding=scorer.decoding, scoring=scorer.scoring)


def in_half_precision(folder, dtype, decoding):
    """A scorer in a 16-bit type, which is for GPUs, with the model loaded as for one."""
    model = load_model(
        folder,
        device=torch.device("cpu"),
        precision=PRECISIONS[dtype],
        kernels=replace(EAGER),  # a copy: `EAGER` itself would be for a CPU's engine
    )
    return QualsScorer(GpuEngine(model), decoding=decoding)


def pass_of(scorer):
    """The fused pass that a scorer takes."""
    return scorer.engine.fused_pass(scorer.decoding, scorer.scoring.max_pairs)
