import numpy as np
import pytest
import torch

from bci_align.session.types import validate
from bci_align_sim import arm
from bci_align_sim.arm_day import BINS, DT_S, Controller, grid, reach, record_arm_day, train_controller

pytestmark = pytest.mark.computes


def test_angles_and_hand_are_each_other_s_inverse() -> None:
    place = torch.tensor([[0.0, 0.42], [0.1, 0.35], [-0.08, 0.5]])
    torch.testing.assert_close(arm.hand(arm.angles(place)), place, atol=1e-5, rtol=0)
    assert (arm.angles(place)[:, 1] > 0).all()  # the elbow bends one way


def test_an_arm_at_rest_stays_and_a_muscle_moves_its_own_joint() -> None:
    state = arm.at_rest(torch.tensor([[0.0, 0.42]]))
    still = arm.step(state, torch.zeros(1, 6), DT_S)
    torch.testing.assert_close(still.angle, state.angle)
    excitation = torch.zeros(1, 6)
    excitation[0, 2] = 1.0  # elbow flexor
    moved = state
    for _ in range(8):
        moved = arm.step(moved, excitation, DT_S)
    assert float(moved.angle[0, 1]) > float(state.angle[0, 1]) + 0.02


def test_energy_is_lost_and_not_made() -> None:
    state = arm.at_rest(torch.tensor([[0.0, 0.42]]))._replace(speed=torch.tensor([[2.0, -1.0]]))
    for _ in range(200):
        state = arm.step(state, torch.zeros(1, 6), 0.01)
    assert float(state.speed.abs().max()) < 0.2


def test_training_brings_the_hand_nearer_to_the_target() -> None:
    def miss(net: Controller) -> float:
        places = torch.from_numpy(grid()).float()
        with torch.no_grad():
            go = torch.full((24,), 14)
            _, hands = reach(net, places[:24], places[1:], go, 0.0, torch.Generator().manual_seed(0))
        return float((hands[:, -1] - places[1:]).norm(dim=1).mean())

    torch.manual_seed(0)
    assert miss(train_controller(0, 40)) < 0.8 * miss(Controller())


@pytest.fixture(scope="module")
def controller() -> Controller:
    return train_controller(0, 10, 8)


def test_a_day_is_a_session_with_the_rates_behind_it(controller: Controller) -> None:
    day = record_arm_day(controller, 30, 1)
    validate(day.session)
    assert day.rates.shape == (30, BINS, len(day.session.channels))
    counts = day.session.counts.reshape(day.rates.shape)
    assert counts.mean() == pytest.approx(day.rates.mean(), rel=0.05)
    assert day.rates.mean() / DT_S == pytest.approx(15, rel=0.01)
    again = record_arm_day(controller, 30, 1)
    assert np.array_equal(again.session.counts, day.session.counts)
    assert not np.array_equal(record_arm_day(controller, 30, 2).session.counts, day.session.counts)


def test_the_same_seed_trains_the_same_controller() -> None:
    a, b = (train_controller(3, 2, 4).out.weight for _ in range(2))
    assert torch.equal(a, b)
