"""The engine's numbers for Prometheus, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from gpu_npu.timing import Histogram

from .service import Service

BOUNDS = [b * 10.0**e for e in range(-5, 1) for b in (1, 2.5, 5)]
"""Seconds, 10 µs to 5 s."""


class EngineMetrics(Collector):
    """Counters and gauges of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now; waits for no burst."""
        status = self._service.status()
        engine = status.engine
        for name, text, count in (
            ("bursts", "Bursts computed.", engine.bursts),
            ("fired", "Neurons that fired, summed over bursts.", engine.fired),
            ("sensory_injections", "External potentials accepted.", engine.sensory_injections),
            ("synaptic_injections", "Synaptic terms delivered.", engine.synaptic_injections),
            ("overruns", "Deadlines that passed while work was under way.", engine.overruns),
            ("missed_deadlines", "Deadlines that were skipped.", engine.missed),
            ("refused_injections", "Injections that the network refused in their turn, or that met the end.", engine.refused),
        ):
            yield CounterMetricFamily(f"gpu_npu_{name}", text, count)
        for name, text, value in (
            ("burst_number", "Number of the last burst.", engine.burst),
            ("running", "1 where the engine runs, 0 where it is paused or has ended.", float(engine.state == "running")),
            (
                "target_hertz",
                "Target frequency; +Inf is as fast as it goes.",
                float("inf") if engine.frequency is None else engine.frequency,
            ),
            ("neurons", "Neurons that exist.", status.neurons),
            ("synapses", "Synapses that exist.", status.synapses),
            ("waiting_calls", "Calls and injections that wait for their turn between bursts.", engine.waiting),
        ):
            yield GaugeMetricFamily(f"gpu_npu_{name}", text, value)
        memory = GaugeMetricFamily("gpu_npu_memory_bytes", "Bytes on the device.", labels=["piece"])
        for piece, count in status.memory.items():
            memory.add_metric([piece], count)
        yield memory
        areas = CounterMetricFamily("gpu_npu_area_fired", "Neurons that fired, by area.", labels=["area", "name"])
        for area in status.areas:
            areas.add_metric([str(area.id), area.name], area.fired)
        yield areas
        streams = UnknownMetricFamily("gpu_npu_stream", "What sinks and sources count of themselves.", labels=["kind", "stream", "what"])
        for kind, found in (("sink", engine.sinks), ("source", engine.sources)):
            for stream, counters in found.items():
                for what, count in counters.items():
                    streams.add_metric([kind, stream, what], count)
        yield streams
        yield _histogram("burst_seconds", "Time of a burst.", self._service.engine.burst_times)
        yield _histogram("lateness_seconds", "From the deadline of a burst to its beginning.", self._service.engine.lateness)


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    counts = histogram.at_most([*BOUNDS, float("inf")])
    buckets = [*zip([f"{bound:g}" for bound in BOUNDS], counts, strict=False), ("+Inf", counts[-1])]
    return HistogramMetricFamily(f"gpu_npu_{name}", text, buckets=buckets, sum_value=histogram.total)


class Metrics:
    """The text that Prometheus reads: the engine's metrics and the process's."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineMetrics(service))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """In the text format 0.0.4."""
        return generate_latest(self._registry)
