"""Streams of a running brain: what fired goes out, sensory input comes in. Each transport is imported by its own name."""

from .base import Sink, Source, Stimulus

__all__ = ["Sink", "Source", "Stimulus"]
