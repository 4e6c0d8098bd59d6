"""The drift score: nought on a day like the source day, more with more drift, and both parts see what they are there for."""

from dataclasses import replace

import numpy as np
import pytest

from bci_align.alignment.drift_score import DriftScore, score
from bci_align.alignment.start import renormalise
from bci_align.bundle.store import Bundle
from bci_align.errors import AlignmentError, MismatchError
from bci_align.session.types import Session, UnlabelledTrials, unlabelled
from bci_align_sim.day import simulate_days
from bci_align_sim.drift import Drift

LEVELS = (0.0, 0.3, 0.6, 1.0)


@pytest.fixture(scope="module")
def days(small_bundle: Bundle) -> dict[float, UnlabelledTrials]:
    """The later day of the small bundle's subject, as it would be with so much drift."""
    out = {}
    for level in LEVELS:
        day = simulate_days(seed=2, trials=(60, 40), drift=Drift.level(level), bin_s=0.05, channels=32)[1]
        out[level] = unlabelled(day, day.rewarded()[:25], small_bundle.manifest.run_in)
    return out


def test_a_day_like_the_source_day_is_not_aligned_and_drift_is(small_bundle: Bundle, days: dict[float, UnlabelledTrials]) -> None:
    found = [score(small_bundle, small_bundle.read_in, days[level]) for level in LEVELS]
    assert [f.verdict for f in found] == ["do not align", "align", "align", "align"], [f.value for f in found]
    values = [f.value for f in found]
    assert values == sorted(values)
    assert all(f.value == pytest.approx(sum(f.parts.values())) for f in found)
    assert found[0].sentence.endswith("aligned from 1: do not align")


def test_the_source_day_itself_scores_nought(small_bundle: Bundle) -> None:
    found = score(small_bundle, small_bundle.source_read_in(), small_bundle.source_trials())
    assert found.value == 0


def test_renormalising_takes_the_latents_back_and_not_the_tuning(
    small_bundle: Bundle, days: dict[float, UnlabelledTrials]
) -> None:
    today = days[1.0]
    before = score(small_bundle, small_bundle.read_in, today)
    after = score(small_bundle, renormalise(small_bundle.read_in, today), today)
    assert after.parts["latents"] < 0.2 * before.parts["latents"]
    assert after.parts["tuning"] > 5
    assert after.verdict == "align"


def test_a_wiring_that_loudness_does_not_tell_is_seen_by_the_tuning(
    small_bundle: Bundle, days: dict[float, UnlabelledTrials]
) -> None:
    order = np.roll(np.arange(32), 1)
    today = replace(days[0.0], counts=tuple(np.ascontiguousarray(t[:, order]) for t in days[0.0].counts))
    found = score(small_bundle, renormalise(small_bundle.read_in, today), today)
    assert found.verdict == "align" and found.parts["tuning"] > 20


def test_the_order_of_trials_does_not_matter(small_bundle: Bundle, days: dict[float, UnlabelledTrials]) -> None:
    def of(trials: UnlabelledTrials) -> DriftScore:
        return score(small_bundle, small_bundle.read_in, trials)

    today = days[0.6]
    order = np.random.default_rng(0).permutation(len(today))
    shuffled = replace(today, counts=tuple(today.counts[i] for i in order), run_in=tuple(today.run_in[i] for i in order))
    assert of(shuffled).value == pytest.approx(of(today).value, rel=1e-3)


def test_the_threshold_is_the_callers(small_bundle: Bundle, days: dict[float, UnlabelledTrials]) -> None:
    assert score(small_bundle, small_bundle.read_in, days[0.0], align_from=0.0).verdict == "align"
    refused = score(small_bundle, small_bundle.read_in, days[1.0], align_from=1e6)
    assert refused.verdict == "do not align" and "aligned from 1e+06" in refused.sentence


def test_what_cannot_be_scored_is_refused(
    small_bundle: Bundle, small_days: tuple[Session, Session], days: dict[float, UnlabelledTrials]
) -> None:
    today = days[0.0]
    with pytest.raises(MismatchError, match="calibration trials: "):
        score(small_bundle, small_bundle.read_in, replace(today, channels=(*today.channels[:-1], "odd one")))
    with pytest.raises(AlignmentError, match="expected at least 5 calibration trials, found 4"):
        score(small_bundle, small_bundle.read_in, replace(today, counts=today.counts[:4], run_in=today.run_in[:4]))
