"""The generator on Hugging Face's own modules, one text and one target at a time."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quals_fast.models.loading import TorchModel, load_model, model_folder, read_weights
from quals_fast.models.shape import Shape


class ReferenceModel:
    """A checkpoint on Hugging Face's BART or T5, in float32 on the CPU.

    Args:
        model: as for `QualsScorer.from_pretrained`.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """

    def __init__(self, model: str | Path = "qagen-mini") -> None:
        try:
            from transformers.modeling_outputs import BaseModelOutput
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'the reference needs transformers: pip install ".[reference]" in the checkout'
            ) from error
        self._output = BaseModelOutput
        # Tokenizer and conventions are the engine's; the network is not.
        self.checkpoint: TorchModel = load_model(model, device=torch.device("cpu"))
        self._network = load_network(model_folder(model), self.checkpoint.shape)
        self._cache_name = cache_name(self._network)

    @torch.inference_mode()
    def encode(self, input_ids: Sequence[int]) -> Tensor:
        """Return the encoder's hidden states of one source, ``(1, S, d)``."""
        encoder = self._network.get_encoder()
        states: Tensor = encoder(torch.tensor([list(input_ids)])).last_hidden_state
        return states

    @torch.inference_mode()
    def token_logprobs(self, states: Tensor, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of one target, by teacher forcing."""
        start = self.checkpoint.conventions.decoder_start_token_id
        decoder_input_ids = torch.tensor([[start, *token_ids[:-1]]])
        logits = self._network(
            encoder_outputs=self._output(last_hidden_state=states),
            decoder_input_ids=decoder_input_ids,
        ).logits[0]
        logprobs = self._log_softmax(logits)
        return [float(row[token]) for row, token in zip(logprobs, token_ids, strict=True)]

    def _log_softmax(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        logits[:, list(self.checkpoint.conventions.masked_token_ids)] = -torch.inf
        return logits.log_softmax(-1)

    def decoder(self, states: Tensor, num_beams: int) -> BeamDecoder:
        """Return a decoder of `num_beams` slots over copies of one source's states."""
        return BeamDecoder(self, states.expand(num_beams, -1, -1))


def load_network(folder: Path, shape: Shape) -> Any:
    """Return transformers' BART or T5 with a folder's weights, in float32.

    The engine checks that the weights are complete; what is missing here is tied.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = AutoConfig.for_model(said.pop("model_type"), **said)
    network = AutoModelForSeq2SeqLM.from_config(config).float().eval()
    weights = {name: tensor.float() for name, tensor in read_weights(folder, shape).items()}
    lm_head = weights.pop("lm_head.weight", None)
    network.load_state_dict(weights, strict=False)
    network.tie_weights()
    if lm_head is not None:  # transformers 5 ties a T5's whatever the config says
        network.lm_head.weight = torch.nn.Parameter(lm_head)
    return network


def cache_name(network: Any) -> str:
    """Return what a transformers network calls its cache; newer versions warn of the old name."""
    return (
        "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"
    )


class BeamDecoder:
    """The language model that the reference search asks, with a key-value cache."""

    def __init__(self, model: ReferenceModel, states: Tensor) -> None:
        conventions = model.checkpoint.conventions
        self.eos_token_id = conventions.eos_token_id
        self.pad_token_id = conventions.pad_token_id
        self.decoder_start_token_id = conventions.decoder_start_token_id
        self.forced_bos_token_id = conventions.forced_bos_token_id
        self._model = model
        self._states = states
        self._cache = None

    @torch.inference_mode()
    def next_logprobs(self, token_ids: Sequence[int], beam_idx: Sequence[int] | None) -> Tensor:
        """Return log-probabilities ``(K, V)`` after slot k's new token."""
        model = self._model
        if self._cache is not None and beam_idx is not None:
            self._cache.reorder_cache(torch.tensor(beam_idx))
        output = model._network(
            encoder_outputs=model._output(last_hidden_state=self._states),
            decoder_input_ids=torch.tensor(token_ids)[:, None],
            use_cache=True,
            **{model._cache_name: self._cache},
        )
        self._cache = output[model._cache_name]
        return model._log_softmax(output.logits[:, -1])
