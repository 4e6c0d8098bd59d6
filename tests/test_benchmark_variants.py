"""The benchmark's variants: settings that exist, and a day in no known order that comes back in its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from bci_align.alignment.erdiff import Candidate
from bci_align.bundle.store import Bundle
from bci_align.comparison.pairs import Pair
from bci_align.comparison.summary import Row, Summary
from bci_align.config import AlignConfig, TrainConfig
from bci_align.errors import AlignmentError
from bci_align.models.read_in import ReadIn
from bci_align.session.types import UnlabelledTrials
from benchmarks import variants
from benchmarks.alignment import acceptance

TRIALS = UnlabelledTrials(
    tuple(np.random.default_rng(i).poisson(2.0, (9, 5)).astype(np.float32) for i in range(4)), (1,) * 4, 0.05, tuple("abcde")
)


def sums(trials: UnlabelledTrials) -> np.ndarray:
    return np.concatenate(trials.counts).sum(0)


def known_by_its_counts(_: object, trials: UnlabelledTrials, *rest: object) -> Candidate:
    """A read-in from which one can tell which channel each row was made for."""
    s = sums(trials).astype(np.float32)
    return Candidate(ReadIn(s, s + 1, np.stack([s, 2 * s], 1), np.zeros(2, np.float32)), trials.channels, {})


EVERY = variants.VARIANTS | variants.FEW_TRIALS


@pytest.mark.parametrize("name", EVERY)
def test_every_variant_is_a_setting_that_exists(name: str) -> None:
    settings = {k: v for k, v in EVERY[name].items() if k != "layers"}
    assert (AlignConfig.model_validate(settings) == AlignConfig()) == (name == "ours" or "layers" in EVERY[name])


@pytest.mark.parametrize("name", variants.TRAINING)
def test_another_training_differs_from_the_pairs_own_in_what_it_says_alone(name: str) -> None:
    own = TrainConfig(epochs=7)
    pair: Pair = Pair("p", None, None, 20, (5, 20), own)  # type: ignore[arg-type]
    other = variants.trained_otherwise(pair, name)
    assert other.train != own and other.train == own.model_copy(update=variants.TRAINING[name])
    assert (other.name, other.unlabelled_counts) == (f"p-{name}", (20,))


def test_a_day_in_no_known_order_comes_back_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[UnlabelledTrials] = []

    def align(bundle: object, trials: UnlabelledTrials, *rest: object) -> Candidate:
        seen.append(trials)
        return known_by_its_counts(bundle, trials)

    monkeypatch.setattr(variants.erdiff, "align", align)
    monkeypatch.setattr(variants, "judge", lambda *_: SimpleNamespace(accepted=True))
    bundle: Bundle = SimpleNamespace(read_in=None)  # type: ignore[assignment]
    found = variants.destroyed(bundle, TRIALS, 3)
    assert not set(seen[0].channels) & set(TRIALS.channels)
    assert not np.array_equal(sums(seen[0]), sums(TRIALS)) and sorted(sums(seen[0])) == sorted(sums(TRIALS))
    assert found.channels == TRIALS.channels
    wanted = known_by_its_counts(None, TRIALS).read_in
    for part in ("mean", "gain", "weight"):
        np.testing.assert_array_equal(getattr(found.read_in, part), getattr(wanted, part))


def test_what_the_gate_refuses_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants.erdiff, "align", known_by_its_counts)
    monkeypatch.setattr(variants, "judge", lambda *_: SimpleNamespace(accepted=False, reason="too odd"))
    bundle: Bundle = SimpleNamespace(read_in=None)  # type: ignore[assignment]
    with pytest.raises(AlignmentError, match="refused by the gate: too odd"):
        variants.destroyed(bundle, TRIALS, 3)


@pytest.mark.parametrize(
    ("r2", "failures", "met"),
    [
        ((81.0, 82.0), (), True),
        ((81.0, 79.0), (), False),
        (None, ("refused by the gate: x", "refused by the gate: y"), True),
        ((79.0,), ("refused by the gate: x",), False),
        ((81.0,), ("ValueError: a defect",), False),
    ],
)
def test_a_refusal_is_as_good_as_a_good_seed_and_a_fault_is_not(
    r2: tuple[float, ...] | None, failures: tuple[str, ...], met: bool
) -> None:
    row = Row(variants.DESTROYED, "ours", 96, (0, 1), r2, None, None, None, "", None, None, None, len(failures))
    told = tuple(f"seed {i}: {variants.DESTROYED} with 96 trials: {why}" for i, why in enumerate(failures))
    found = acceptance([Summary("centerout_position", 72, 96, True, True, (row,), None, {}, told)])
    assert [r.met for r in found] == [met]
