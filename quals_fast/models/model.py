"""A loaded question-answer generator, whatever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from quals_fast.models.checkpoint import Conventions
from quals_fast.models.shape import Shape
from quals_fast.models.tokenizer import QATokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(ABC):
    """What every loaded model has.

    Attributes:
        name: the bundled model's, the folder's, or OWNER/NAME@COMMIT on the hub.
        digest: first 12 hexadecimal digits of the SHA-256 over weights, config and tokenizer.
        shape: sizes of the network.
        conventions: its special tokens and the like.
        tokenizer: its tokenizer.
    """

    name: str
    digest: str
    shape: Shape
    conventions: Conventions
    tokenizer: QATokenizer

    @abstractmethod
    def runs_as(self) -> dict[str, str]:
        """Return what the signature says of how it runs: ``dtype``, ``backend``, ``kernels``."""
