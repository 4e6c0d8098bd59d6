"""The drift benchmark's arithmetic: correlations, the table and what counts as met."""

import numpy as np
import pytest

from benchmarks.drift import STILL, Found, acceptance, correlations, rows


def found(level: float | None, value: float, loss: float, subject: str = "s", day: str = "d") -> Found:
    return Found(subject, day, level, "source day's", value, "align" if value >= 1 else "do not align", 90.0 - loss, loss)


FOLLOWS = [found(level, 30 * level + 0.1, 40 * level, subject) for level in (0.0, 0.1, 0.5, 1.0) for subject in "ab"]


def met(of: list[Found]) -> dict[str, bool]:
    return {r.name.split(",")[0].split(":")[0]: r.met for r in acceptance(of)}


def test_a_loss_beyond_uselessness_counts_as_that_for_pearson_and_as_more_for_spearman() -> None:
    spearman, pearson = correlations([found(0.1, 1, 10), found(0.5, 5, 50), found(0.9, 10, 100), found(1.0, 10.1, 300)])
    assert spearman == 1 and pearson == pytest.approx(1, abs=1e-3)
    spearman, _ = correlations([found(0.1, 1, 10), found(0.5, 5, 50), found(0.9, 10.1, 100), found(1.0, 10, 300)])
    assert spearman < 1


def test_a_score_that_follows_the_loss_is_met() -> None:
    assert all(r.met for r in acceptance(FOLLOWS))
    assert len(acceptance(FOLLOWS)) == 5
    blocks = [found(None, 0.2, 0, "i", STILL), found(None, 0.3, 0.5, "i", STILL), found(None, 9, 20, "i", "isometric, day 16")]
    assert all(r.met for r in acceptance(FOLLOWS + blocks)) and len(acceptance(FOLLOWS + blocks)) == 7


def test_every_failure_is_its_own_row() -> None:
    alarmed = [found(0.0, 2.0, 0.0, s) for s in "ab"] + FOLLOWS
    assert [r.name for r in acceptance(alarmed) if not r.met] == ["days without drift: 'do not align' (%), of 4"]
    blind = [found(0.4, 0.9, 9.0, s) for s in "ab"] + FOLLOWS
    assert any(r.name.startswith("days that lost more than 5 points") and not r.met for r in acceptance(blind))
    against = [found(level, 1 - level, 40 * level) for level in (0.0, 0.3, 0.6, 0.9)]
    assert not any(r.met for r in acceptance(against) if "Spearman" in r.name or "least" in r.name)


def test_the_table_has_a_row_for_every_level_and_recorded_day() -> None:
    head, *body = rows([*FOLLOWS, found(None, 0.2, 0.0, "i", STILL)])
    assert head[0] == "days"
    assert [(r[0], r[2], r[5]) for r in body] == [
        ("simulated, level 0", "2", "0 of 2"),
        ("simulated, level 0.1", "2", "2 of 2"),
        ("simulated, level 0.5", "2", "2 of 2"),
        ("simulated, level 1", "2", "2 of 2"),
        (STILL, "1", "0 of 1"),
    ]
    assert body[2][4] == "15.1 +- 0.0" and np.isclose(FOLLOWS[4].value, 15.1)
