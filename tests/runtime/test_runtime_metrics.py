"""The page that a monitor reads, over real HTTP, and the sentences of a run."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bci_align.cli.running import sentence
from bci_align.errors import ConfigError
from bci_align.runtime.metrics import MetricsServer, Page
from bci_align.runtime.promotion import Promotion
from bci_align.runtime.shared import Cell, Phase, Shared
from bci_align.streams.contract import Flags


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared.create(5, 3)
    yield made
    made.close()


def read(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in text_string_to_metric_families(text) for s in f.samples}


def test_everything_is_on_the_page(shared: Shared) -> None:
    shared.set(Cell.BINS, 1000)
    shared.set(Cell.GAPS, 3)
    shared.set(Cell.LATE, 2)
    shared.set(Cell.DRIFT, 1_250_000)
    shared.set(Cell.PHASE, Phase.LOST)
    shared.faults[(Flags.NEGATIVE).bit_length() - 1] = 7
    shared.episodes[(Flags.NEGATIVE).bit_length() - 1] = 2
    for k in range(100):
        shared.latency.add(1, 1e-4 * (k + 1))
    server = MetricsServer(0, Page(shared, lambda: {"decoder": 4}, lambda: Promotion.SHADOW))
    try:
        found = read(server.port)
        with pytest.raises(ConfigError, match=r"control\.metrics_port: 127\.0\.0\.1:\d+ cannot be bound"):
            MetricsServer(server.port, Page(shared, dict, lambda: Promotion.SHADOW))
    finally:
        server.close()
    assert found["bci_align_bins_total", ()] == 1000
    assert found["bci_align_lost_bins_total", ()] == 3
    assert found["bci_align_late_bins_total", ()] == 2
    assert found["bci_align_drift_score", ()] == 1.25
    assert found["bci_align_faults_total", (("fault", "NEGATIVE"),)] == 7
    assert found["bci_align_fault_episodes_total", (("fault", "NEGATIVE"),)] == 2
    assert found["bci_align_restarts_total", (("process", "decoder"),)] == 4
    for name, now in (("phase", "LOST"), ("promotion_state", "SHADOW")):
        states = {labels[0][1]: v for (n, labels), v in found.items() if n == f"bci_align_{name}"}
        assert [state for state, v in states.items() if v] == [now]
    buckets = [
        (float(dict(labels)["le"]), v)
        for (n, labels), v in found.items()
        if n == "bci_align_latency_seconds_bucket" and dict(labels)["stage"] == "step"
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (float("inf"), 100)
    assert [v for le, v in buckets if le < 1e-4] == [0.0] * sum(le < 1e-4 for le, _ in buckets)
    assert found["bci_align_latency_seconds_count", (("stage", "step"),)] == 100
    assert abs(found["bci_align_latency_seconds_sum", (("stage", "step"),)] - 0.505) < 1e-3


def test_a_page_whose_run_is_over_is_empty(shared: Shared) -> None:
    page = Page(shared, dict, lambda: Promotion.COLLECT)
    assert len(list(page.collect())) > 10
    page.close()
    assert list(page.collect()) == []


@pytest.mark.parametrize(
    ("report", "line"),
    [
        ({"report": "died", "who": "decoder", "reason": "no", "again_s": 0.0}, "the decoder died (no); it is replaced"),
        ({"report": "died", "who": "aligner", "reason": "no", "again_s": 2.0}, "the aligner died (no); it is replaced in 2 s"),
        ({"report": "died", "who": "aligner", "reason": "no", "again_s": None}, "the aligner died (no); it stays down"),
        ({"report": "committed", "generation": 2, "reason": "good"}, "generation 2 is committed: good"),
        ({"report": "standing_by", "broken": ""}, None),
        ({"report": "progress", "done": 1, "total": 2}, None),
    ],
)
def test_sentences_for_people(report: dict[str, object], line: str | None) -> None:
    assert sentence({"from": "live"} | report) == line
