"""What was noticed while a brain was grown or read: nothing is changed or left out without an entry here."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_npu.objects import OneLine


@dataclass(repr=False)
class Report(OneLine):
    """Counts, and one line of text for each thing that a user should know."""

    warnings: list[str] = field(default_factory=list)
    unknown_keys: dict[str, int] = field(default_factory=dict)
    """Key that no genome should have -> how many areas have it."""
    ignored_keys: dict[str, int] = field(default_factory=dict)
    """Old spelling that FEAGI 2.6 no longer reads -> how many areas have it."""
    foreign_keys: int = 0
    """Keys of the blueprint that belong to no cortical area."""
    dropped_rules: int = 0
    """Mapping rules that FEAGI does not take: parts of them are missing, or they are no rules."""
    lost_rules: int = 0
    """Rules never looked at, because one before them in the same source area was bad."""
    absent_targets: int = 0
    """Rules whose target area does not exist."""
    plastic_mappings: int = 0
    """Mappings that FEAGI's plasticity would act on; their parameters are kept, their synapses stay as they are."""
    leaks_clamped: int = 0
    """Neurons whose leak coefficient was brought into 0..1."""
    delayed_synapses: int = 0
    """Synapses with a delay above 1."""
    negative_psps: int = 0
    """Synapses whose type was turned because their psp was negative."""
    thresholds_clamped: int = 0
    """Neurons whose threshold was brought into what a potential can be."""
    threshold_limits_clamped: int = 0
    """Neurons whose threshold limit was above what a potential can be."""

    _said: set[str] = field(default_factory=set, repr=False, compare=False)

    def warn(self, text: str) -> None:
        """Add a line, once."""
        if text not in self._said:
            self._said.add(text)
            self.warnings.append(text)
