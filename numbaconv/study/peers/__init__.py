"""The libraries that are compared, each a small class that says how a convolution is run on it."""

from __future__ import annotations

from importlib import import_module

from numbaconv.study.peers.base import LAYOUTS, WORKS, Arrays, Peer
from numbaconv.study.peers.frameworks import Jax, TensorFlow, Torch
from numbaconv.study.peers.own import Im2col, Loops, Numbaconv, NumbaconvDirect, NumbaconvWinograd, Reference
from numbaconv.study.peers.runtimes import Ncnn, OnnxRuntime, OpenVino

__all__ = ["ALGORITHMS", "LAYOUTS", "PEERS", "WORKS", "Arrays", "Peer", "address", "find"]

#: All that are known, by name, in the order of their turns.
PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (Numbaconv, Torch, Jax, TensorFlow, OnnxRuntime, OpenVino, Ncnn, Im2col, Loops, Reference)
}

#: We ourselves, by the algorithm that is to be compared; in a study each is just called numbaconv.
ALGORITHMS: dict[str, type[Peer]] = {
    "auto": Numbaconv,
    "direct": NumbaconvDirect,
    "winograd": NumbaconvWinograd,
}


def find(name: str) -> type[Peer]:
    """The peer of this name, or at this address: ``package.module:Class``.

    Raises
    ------
    ValueError
        There is none.
    """
    if name in PEERS:
        return PEERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"there is no peer {name!r}: choose from {', '.join(PEERS)}, or say package.module:Class")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no peer {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Peer)):
        raise ValueError(f"{name!r} is not a subclass of numbaconv.study.peers.Peer")
    return found


def address(peer: type[Peer]) -> str:
    """Where another process finds it."""
    return f"{peer.__module__}:{peer.__qualname__}"
