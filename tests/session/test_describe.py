import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bci_align.session.describe import describe
from bci_align.session.types import Session


def test_describes_in_plain_numbers(make_session: Callable[..., Session]) -> None:
    session = make_session()
    counts = session.counts.copy()
    counts[:, 2] = 0
    session = replace(session, counts=counts)
    facts = describe(session)
    assert facts == json.loads(json.dumps(facts))
    assert facts["bins"] == 200 and facts["channels"] == 5 and facts["bin_s"] == 0.05
    assert facts["minutes"] == pytest.approx(200 * 0.05 / 60)
    assert facts["mean_rate_hz"] == pytest.approx(counts.sum() / (200 * 5 * 0.05))
    assert facts["silent_channels"] == ["élec2"] and facts["breaks"] == 0
    assert describe(replace(session, breaks=(39, 70)))["breaks"] == 2
    assert facts["trials"] == 3 and facts["rewarded"] == 2 and facts["trial_median_s"] == pytest.approx(1.25)
    assert [k["name"] for k in facts["kinematics"]] == ["vx", "vy"]
    assert session.kinematics is not None
    assert [k["sd"] for k in facts["kinematics"]] == pytest.approx(np.std(session.kinematics, axis=0).tolist(), rel=1e-5)


def test_a_session_without_kinematics(make_session: Callable[..., Session]) -> None:
    assert describe(make_session(labels=False))["kinematics"] == []
