"""Networks as FEAGI makes them: genomes that are grown, and exports of running brains. No backend is known here."""

from .areas import CorticalArea, Rule
from .export import Imported, read_export
from .grow import Grown, grow
from .network import NetworkOptions
from .reader import Genome, read_genome
from .report import Report
from .synaptogenesis import GrownMapping
from .tables import NeuronTable, SynapseTable

__all__ = [
    "CorticalArea",
    "Genome",
    "Grown",
    "GrownMapping",
    "Imported",
    "NetworkOptions",
    "NeuronTable",
    "Report",
    "Rule",
    "SynapseTable",
    "grow",
    "read_export",
    "read_genome",
]
