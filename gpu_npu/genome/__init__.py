"""Networks as FEAGI makes them: genomes that are grown, and exports of running brains. No backend is known here."""
