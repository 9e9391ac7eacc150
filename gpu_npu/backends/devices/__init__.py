"""Devices: memory, transfers and launches, nothing more. The contract is in `base`."""
