"""What the engine gives for the targets that a training run evaluates on."""

import torch

from quals_fast.engine.rescoring import rescore
from quals_fast.models.loading import load_model
from quals_fast.training.qagen.batches import Examples
from quals_fast.training.qagen.corpus import read_corpus
from quals_fast.training.qagen.encoding import PairEncoder


def nats_by_engine(settings, positions):
    """Return the nats of each token of whole passages, pair by pair, from the trained model."""
    generator = load_model(settings.output, device=torch.device("cpu"))
    encoder = PairEncoder(generator.tokenizer._tokenizer, generator.conventions, positions)
    examples = Examples(read_corpus(settings.train), encoder, settings, "passage")
    pairs = [examples[place] for place in range(len(examples))]
    with torch.inference_mode():
        found = rescore(
            generator, [p.source for p in pairs], [[tuple(p.target)] for p in pairs], 4096
        )
    return [[-value for value in row] for (row,) in found]
