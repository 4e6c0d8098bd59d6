"""A planar two-link arm with six muscles: joint angles, hand, and how they move. In torch, so that a controller can be trained.

Masses, lengths and friction as in Todorov & Li 2005 ("A generalized iterative LQG method", the arm of Section 5); muscles pull at
constant moment arms and answer to excitation with a first-order lag.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LINKS_M = (0.30, 0.33)
MASS2_KG, CENTRE2_M = 1.0, 0.16
INERTIA = (0.025, 0.045)
"""kg m^2 of the two links."""
FRICTION = ((0.05, 0.025), (0.025, 0.05))
ARMS_M = ((0.04, -0.04, 0.0, 0.0, 0.028, -0.035), (0.0, 0.0, 0.025, -0.025, 0.028, -0.03))
"""Moment arms of shoulder flexor and extensor, elbow flexor and extensor, and of the two that cross both joints."""
FORCE_N = 120.0
MUSCLE_TAU_S = 0.05
DAMPING = 0.15
"""Of the muscles, N m s per joint: what keeps a slack arm from swinging."""


class ArmState(NamedTuple):
    """``angle`` and ``speed`` (B, 2) of shoulder and elbow, rad and rad/s; ``muscle`` (B, 6) activation, 0 to 1."""

    angle: Tensor
    speed: Tensor
    muscle: Tensor


def hand(angle: Tensor) -> Tensor:
    """Place of the hand (B, 2), m from the shoulder."""
    a, b = angle[..., 0], angle[..., 0] + angle[..., 1]
    l1, l2 = LINKS_M
    return torch.stack([l1 * a.cos() + l2 * b.cos(), l1 * a.sin() + l2 * b.sin()], -1)


def angles(place: Tensor) -> Tensor:
    """Joint angles (B, 2) that bring the hand to ``place`` (B, 2), elbow bent the human way."""
    l1, l2 = LINKS_M
    squared = place.square().sum(-1)
    elbow = torch.acos(((squared - l1**2 - l2**2) / (2 * l1 * l2)).clamp(-1, 1))
    shoulder = torch.atan2(place[..., 1], place[..., 0]) - torch.atan2(l2 * elbow.sin(), l1 + l2 * elbow.cos())
    return torch.stack([shoulder, elbow], -1)


def at_rest(place: Tensor) -> ArmState:
    """The arm holding still with the hand at ``place`` (B, 2)."""
    angle = angles(place)
    return ArmState(angle, torch.zeros_like(angle), angle.new_zeros(len(angle), 6))


def step(state: ArmState, excitation: Tensor, dt_s: float) -> ArmState:
    """Move the arm for ``dt_s`` seconds under ``excitation`` (B, 6), 0 to 1 (semi-implicit Euler)."""
    angle, speed, muscle = state
    muscle = muscle + (dt_s / MUSCLE_TAU_S) * (excitation - muscle)
    torque = FORCE_N * muscle @ muscle.new_tensor(ARMS_M).T - DAMPING * speed - speed @ speed.new_tensor(FRICTION).T
    c = MASS2_KG * LINKS_M[0] * CENTRE2_M
    cos, sin = angle[:, 1].cos(), angle[:, 1].sin()
    m11 = INERTIA[0] + INERTIA[1] + MASS2_KG * LINKS_M[0] ** 2 + 2 * c * cos
    m12 = INERTIA[1] + c * cos
    m22 = INERTIA[1]
    turned = c * sin
    left1 = torque[:, 0] + turned * speed[:, 1] * (2 * speed[:, 0] + speed[:, 1])
    left2 = torque[:, 1] - turned * speed[:, 0].square()
    determinant = m11 * m22 - m12.square()
    acceleration = torch.stack([m22 * left1 - m12 * left2, m11 * left2 - m12 * left1], 1) / determinant[:, None]
    speed = speed + dt_s * acceleration
    return ArmState(angle + dt_s * speed, speed, muscle)
