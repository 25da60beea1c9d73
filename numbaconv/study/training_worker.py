"""The process in which one library trains: ``python -m numbaconv.study.training_worker module:Class threads``.

It is the process of :mod:`numbaconv.study.worker` with models in place of layers: what is called a layer there is a
model and its batch here, "n64 lenet5"; the layout is "best", each library's own choice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.study.training_base import TrainingPeer
from numbaconv.study.training_data import Data
from numbaconv.study.worker import Answer, Worker, calls_for, difference, serve

#: Steps whose losses are compared.
STEPS = 4
#: A turn of training, which begins with the initial weights, takes no more steps: gradients that have vanished leave a
#: momentum that shrinks by a tenth a step, and in the end it would be denormal, which is slow.
MOST_STEPS = 200


class ModelWorker(Worker):
    """Answers requests about models in one library."""

    peer: TrainingPeer

    def on_begin(
        self, layer: str, layout: str, work: str, turn: float, expected: str | None, save: str | None
    ) -> Answer:
        """Make the first call, and say what shows whether the model is the same as ours.

        ``save`` and ``expected`` name the file with our logits.
        """
        call = self._call(layer, layout, work)
        start = time.perf_counter()
        value = call()
        answer: Answer = {"first_call": time.perf_counter() - start, "threads": self.peer.says()}
        answer["parameters"] = self.peer.parameters()
        if work == "inference":
            logits = np.asarray(value)
            if save:
                np.save(save, logits)
            if expected:
                answer["error"], answer["wrong"] = difference(logits, np.load(expected))
        else:
            answer["losses"] = [value, *(call() for _ in range(STEPS - 1))]
        if not answer.get("wrong"):
            answer["calls"] = calls_for(call, turn)
            if work != "inference":
                answer["calls"] = min(answer["calls"], MOST_STEPS)
        return answer

    def _call(self, layer: str, layout: str, work: str) -> Callable[[], Any]:
        """What is timed, ready to start from the initial weights."""
        if self.cell != (layer, layout):
            self.cell = None
            batch, name = layer.split()
            data = Data.random(name, int(batch.removeprefix("n")))
            self.state = data.model.state_dict()
            self.peer.build(data.model)
            self.batches = [self.peer.batch(x, y) for x, y in zip(data.images, data.labels, strict=True)]
            self.cell = layer, layout
        self.peer.load(self.state)
        if work == "inference":
            images = self.batches[0][0]
            return lambda: self.peer.infer(images)
        turns = itertools.cycle(self.batches)
        return lambda: self.peer.step(*next(turns))


if __name__ == "__main__":
    serve(ModelWorker)
