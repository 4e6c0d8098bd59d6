"""What a monitor reads: a page of text for Prometheus, over HTTP on this machine alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bci_align.errors import ConfigError
from bci_align.runtime import latency
from bci_align.runtime.latency import STAGES
from bci_align.runtime.promotion import Promotion
from bci_align.runtime.shared import Cell, Phase, Shared
from bci_align.streams.contract import Flags

_COUNTERS = {
    Cell.BINS: ("bins", "Bins decoded"),
    Cell.GAPS: ("lost_bins", "Bins that never arrived"),
    Cell.LATE: ("late_bins", "Bins published more than a bin's width after they had arrived"),
    Cell.BAD: ("bad_bins", "Bins whose counts could not be used"),
    Cell.TRIALS: ("trials", "Usable calibration trials found"),
    Cell.UNSENT: ("unsent_reports", "Reports that the decoder could not get rid of"),
}
_GAUGES = {
    Cell.GENERATION: ("generation", "Generation that decodes"),
    Cell.COMMITTED: ("committed_generation", "Generation that was committed last"),
    Cell.HELD: ("trials_held", "Calibration trials that wait for the next alignment"),
    Cell.FREEZE: ("frozen", "Whether the output is frozen"),
}
_EVERY = 24
"""Buckets of the histograms in shared memory that make one on the page: a factor of two."""


class Page(Collector):
    """Reads the shared memory whenever somebody asks; after :meth:`close` there is nothing to read any more.

    ``restarts`` gives restarts per process, ``state`` where the promotion stands.
    """

    def __init__(self, shared: Shared, restarts: Callable[[], dict[str, int]], state: Callable[[], Promotion]) -> None:
        self._shared: Shared | None = shared
        self._restarts, self._state = restarts, state
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing beforehand: what there is comes with :meth:`collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics as of now."""
        with self._lock:
            return iter([] if self._shared is None else list(self._read(self._shared)))

    def close(self) -> None:
        """Let go of the shared memory."""
        with self._lock:
            self._shared = None

    def _read(self, s: Shared) -> Iterator[Metric]:
        for cell, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"bci_align_{name}", text, value=s.get(cell))
        for cell, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"bci_align_{name}", text, value=s.get(cell))
        yield GaugeMetricFamily(
            "bci_align_drift_score", "Label-free drift score of the last trials", value=s.get(Cell.DRIFT) / 1e6
        )
        for name, rows, text in (
            ("faults", s.faults, "Bins with a fault"),
            ("fault_episodes", s.episodes, "Times a fault began"),
        ):
            faults = CounterMetricFamily(f"bci_align_{name}", text, labels=["fault"])
            for flag, count in by_name(rows.tolist()).items():
                faults.add_metric([flag], count)
            yield faults
        restarts = CounterMetricFamily("bci_align_restarts", "Times a process was started again", labels=["process"])
        for who, n in self._restarts().items():
            restarts.add_metric([who], n)
        yield restarts
        yield _one_of("phase", "How the decoder is", [p.name for p in Phase], Phase(s.get(Cell.PHASE)).name)
        yield _one_of("promotion_state", "Where promotion stands", [p.name for p in Promotion], self._state().name)
        took = HistogramMetricFamily("bci_align_latency_seconds", "Time that the stages of a bin take", labels=["stage"])
        for i, stage in enumerate(STAGES):
            took.add_metric([stage], *_buckets(s, i))
        yield took


class MetricsServer:
    """Serves a :class:`Page` on 127.0.0.1 until :meth:`close`; :attr:`port` is the one asked for, or for 0 the one found."""

    def __init__(self, port: int, page: Page) -> None:
        registry = CollectorRegistry()
        registry.register(page)
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as e:
            raise ConfigError(f"control.metrics_port: 127.0.0.1:{port} cannot be bound ({e.strerror})") from None
        self.port = int(self._server.server_port)
        self._page = page

    def close(self) -> None:
        """Stop serving and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._page.close()


def by_name(rows: list[int]) -> dict[str, int]:
    """Counters per bit of the flags, under the names of those that count faults or episodes of something."""
    return {flag.name: rows[flag.bit_length() - 1] for flag in Flags if flag.name is not None and flag}


def _one_of(name: str, text: str, known: list[str], now: str) -> Metric:
    family = GaugeMetricFamily(f"bci_align_{name}", f"{text}: 1 for the one that holds", labels=["state"])
    for state in known:
        family.add_metric([state], float(state == now))
    return family


def _buckets(s: Shared, stage: int) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the sum of one stage, as Prometheus wants them."""
    counts = s.latency.counts(stage)
    found, total = [], 0
    for first in range(0, len(counts), _EVERY):
        last = min(first + _EVERY, len(counts)) - 1
        total += int(counts[first : last + 1].sum())
        edge = latency.edge(last)
        found.append(("+Inf" if edge == float("inf") else f"{edge:.3g}", float(total)))
    return found, s.latency.sum_s(stage)
