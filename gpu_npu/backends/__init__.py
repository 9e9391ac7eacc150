"""Backends: where a network lives and bursts are computed. The contract is in `base`."""
