"""What a format of networks is. To add one, write a file that makes a `Format`, and name it in FORMATS of `gpu_npu.io`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from numpy.typing import ArrayLike

from gpu_npu.connectome import Connectome, SynapseSource

from .archive import Archive

Fields = Mapping[str, ArrayLike]
"""Neuron fields that the caller gives, by name."""
Stream = Callable[[Archive, Fields], tuple[Connectome, SynapseSource]]


class Format(NamedTuple):
    """A kind of .npz file that holds a network."""

    about: str
    """What it is, for messages, and by which of its arrays it is told."""
    recognises: Callable[[Archive], bool]
    stream: Stream
    """The network without its synapses, and a source that reads them from the file."""
    load: Callable[[Archive, Fields], Connectome]
    """The whole network, in memory."""


def in_memory(stream: Stream) -> Callable[[Archive, Fields], Connectome]:
    """The `load` of a format that needs nothing but its `stream`."""

    def load(archive: Archive, fields: Fields) -> Connectome:
        network, synapses = stream(archive, fields)
        network.reserve(synapses=synapses.total)
        for batch in synapses:
            network.synapses.append(batch)
        return network

    return load
