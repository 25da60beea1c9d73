"""What a library has to do to take part in a study of whole models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from numbaconv import nn
from numbaconv.study.peers import Peer

State: TypeAlias = Mapping[str, np.ndarray]


class TrainingPeer(Peer):
    """A model in one library: :meth:`build` comes first, then :meth:`batch`, :meth:`load`, and all else."""

    works: ClassVar[tuple[str, ...]] = ("training step", "inference")

    def build(self, model: nn.Sequential) -> None:
        """Make the library's own model of ours."""
        raise NotImplementedError

    def parameters(self) -> int:
        """How many numbers are trained."""
        raise NotImplementedError

    def load(self, state: State) -> None:
        """Take these weights, in torch's names and shapes, and forget the momentum."""
        raise NotImplementedError

    def batch(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        """Images ``(N, C, H, W)`` and labels as the library likes them best; it is not timed."""
        return x, y

    def step(self, x: Any, y: Any) -> float:
        """Train on a batch: forward, loss, backward, SGD with momentum. Returns the loss before the step."""
        raise NotImplementedError

    def infer(self, x: Any) -> Any:
        """The logits ``(N, classes)`` in evaluation mode, complete on return; anything ``np.asarray`` takes."""
        raise NotImplementedError
