from collections.abc import Callable

import numpy as np
import pytest

from bci_align.session.types import Session, Trials


def _make(
    bins: int = 200, channels: int = 5, most: int = 9, labels: bool = True, seed: int = 0, breaks: tuple[int, ...] = ()
) -> Session:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, (bins, channels), endpoint=True).astype(np.int32)
    counts[-1, -1] = most
    start = np.array([0.5, 2.0, 4.0])
    return Session(
        counts=counts,
        bin_s=0.05,
        channels=tuple(f"élec{i}" for i in range(channels)),
        trials=Trials(
            start_s=start,
            go_s=np.array([0.7, np.nan, 4.25]),
            end_s=start + 1.25,
            success=np.array([True, False, True]),
            target=rng.normal(size=(3, 2)) if labels else None,
        ),
        kinematics=rng.normal(size=(bins, 2)).astype(np.float32) if labels else None,
        kinematics_names=("vx", "vy") if labels else (),
        kinematics_units=("cm/s", "cm/s") if labels else (),
        name="day 0, µ",
        meta={"origin": "made here", "note": "x" * 300, "empty": "", "a/b": "slash"},
        breaks=breaks,
    )


@pytest.fixture(scope="session")
def make_session() -> Callable[..., Session]:
    return _make


def _same(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@pytest.fixture(scope="session")
def equal() -> Callable[[Session, Session], bool]:
    """Whether two sessions are equal, dtypes and every value included; a NaN go cue equals a NaN go cue."""

    def check(a: Session, b: Session) -> bool:
        arrays = [(a.counts, b.counts), (a.kinematics, b.kinematics)]
        arrays += [(getattr(a.trials, n), getattr(b.trials, n)) for n in ("start_s", "go_s", "end_s", "success", "target")]
        plain = ("bin_s", "channels", "kinematics_names", "kinematics_units", "name", "meta", "breaks")
        return all(_same(x, y) for x, y in arrays) and all(getattr(a, n) == getattr(b, n) for n in plain)

    return check
