"""A behaviour as pictures: a cursor or the hand of a two-link arm, and a bar for each further behaviour; from any session.

Nothing is smoothed or decorated: what moves in a frame is what the kinematics say.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bci_align.config import FilmConfig
from bci_align.config.base import Strict
from bci_align.errors import InterpretationError
from bci_align.interpretation.data import FactorDay
from bci_align.session.types import Session

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

BAR = 3
"""Columns of pixels per bar: one dark, two that fill."""
MOST_BARS = 4
CHUNK = 2000
"""Frames drawn at once."""


class Scene(Strict):
    """How a session's kinematics become frames of ``size`` x (``size`` + bars) pixels in 0..1.

    Position x to the right, y upwards; ``reach`` of it, in its own units, is the edge of the field, beyond which it is cut.
    """

    kind: Literal["cursor", "arm"]
    position: tuple[str, str]
    integrated: bool = Field(description="the position is the integral of velocities from the trial's start")
    centre: tuple[float, float] = Field(description="position in the middle of the field")
    reach: float = Field(gt=0, description="largest position shown, from the centre")
    levels: tuple[str, ...] = Field(max_length=MOST_BARS, description="behaviours drawn as bars")
    low: tuple[float, ...] = Field(description="their values at the bottom")
    high: tuple[float, ...] = Field(description="their values at the top")
    size: int = Field(ge=8, le=256)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return self.size, self.size + BAR * len(self.levels)

    def draw(self, position: Floats, levels: Floats) -> Array:
        """Frames (n, H, W) of ``position`` (n, 2) and ``levels`` (n, m), in their own units."""
        p = np.clip((position - np.array(self.centre)) / self.reach, -1, 1)
        low, high = np.array(self.low), np.array(self.high)
        bars = np.clip((levels - low) / (high - low), 0, 1) if len(low) else np.zeros((len(p), 0))
        return np.concatenate([self._some(p[i : i + CHUNK], bars[i : i + CHUNK]) for i in range(0, len(p), CHUNK)])

    def _some(self, p: Floats, bars: Floats) -> Array:
        out = np.zeros((len(p), *self.shape), np.float32)
        out[:, :, : self.size] = (_cursor if self.kind == "cursor" else _arm)(p, self.size)
        rows = self.size - 1 - np.arange(self.size)
        for k in range(bars.shape[1]):
            column = np.clip(bars[:, k, None] * self.size - rows, 0, 1)
            out[:, :, self.size + BAR * k + 1 : self.size + BAR * (k + 1)] = column[:, :, None]
        return out


def field(size: int) -> tuple[float, float]:
    """Margin and span, in pixels, of the field that positions -1..1 move in."""
    margin = size / 8
    return margin, size - 1 - 2 * margin


def _cursor(p: Floats, size: int) -> Floats:
    """A Gaussian spot (n, size, size)."""
    margin, span = field(size)
    x = margin + span * (p[:, 0] + 1) / 2
    y = margin + span * (1 - p[:, 1]) / 2
    at, sd = np.arange(size), size / 12
    across = np.exp(-0.5 * ((at - x[:, None]) / sd) ** 2)
    down = np.exp(-0.5 * ((at - y[:, None]) / sd) ** 2)
    return np.asarray(down[:, :, None] * across[:, None, :])


def _arm(p: Floats, size: int) -> Floats:
    """A two-link arm (n, size, size) whose hand is at ``p``; the shoulder is below the field, the elbow bends outwards."""
    shoulder = np.array([0.0, -1.6])
    way = p - shoulder
    distance = np.linalg.norm(way, axis=1)
    link = 0.52 * float(np.hypot(1.0, 2.6))  # both links together reach the farthest corner
    lift = np.sqrt(np.maximum(link**2 - (distance / 2) ** 2, 0))
    side = np.stack([way[:, 1], -way[:, 0]], axis=1) / np.maximum(distance, 1e-9)[:, None]
    elbow = shoulder + way / 2 + lift[:, None] * side
    margin, span = field(size)
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    pixel = np.stack([2 * (column - margin) / span - 1, 1 - 2 * (row - margin) / span], axis=-1)
    near = np.minimum(_distance(pixel, np.broadcast_to(shoulder, p.shape), elbow), _distance(pixel, elbow, p))
    thick = 2 * size / 20 / span
    hand = np.linalg.norm(pixel[None] - p[:, None, None], axis=-1)
    arm = 0.5 * np.exp(-0.5 * (near / (0.6 * thick)) ** 2)
    return np.maximum(arm, np.exp(-0.5 * (hand / thick) ** 2))


def _distance(pixel: Floats, a: Floats, b: Floats) -> Floats:
    """Distance (n, H, W) of pixels (H, W, 2) from the segments ``a``-``b`` (n, 2)."""
    way = (b - a)[:, None, None]
    share = ((pixel[None] - a[:, None, None]) * way).sum(-1) / np.maximum(np.square(way).sum(-1), 1e-12)
    foot = a[:, None, None] + np.clip(share, 0, 1)[..., None] * way
    return np.asarray(np.linalg.norm(pixel[None] - foot, axis=-1))


def set_scene(session: Session, day: FactorDay, config: FilmConfig) -> Scene:
    """Choose position, bars and their ranges on the training trials; :class:`InterpretationError` where nothing can move."""
    where = f"session {session.name!r}"
    names, units = session.kinematics_names, session.kinematics_units
    if config.position is None and len(names) < 2:
        raise InterpretationError(f"{where}: frames: expected two kinematics to move a {config.scene} by, found {len(names)}")
    position = config.position or (names[0], names[1])
    for name in position:
        if name not in names:
            raise InterpretationError(f"{where}: film.position: expected kinematics among {', '.join(names)}, found {name!r}")
    integrated = units[names.index(position[0])].endswith("/s")
    rest = tuple(n for n in names if n not in position and n in day.names)
    levels = rest[:MOST_BARS] if config.levels is None else config.levels
    for name in levels:
        if name not in day.names:
            raise InterpretationError(f"{where}: film.levels: expected behaviours among {', '.join(day.names)}, found {name!r}")
    if len(levels) > MOST_BARS:
        raise InterpretationError(f"{where}: film.levels: expected at most {MOST_BARS}, found {len(levels)}")
    rows = day.rows(False)
    p = np.concatenate(_positions(session, rows, position, integrated))
    centre = np.zeros(2) if integrated else np.median(p, axis=0)
    shown = np.concatenate([day.behaviours[a:b] for a, b in rows])[:, [day.names.index(n) for n in levels]].astype(np.float64)
    low, high = np.nanpercentile(shown, [1, 99], axis=0) if len(levels) else (np.zeros(0), np.zeros(0))
    reach = float(np.percentile(np.abs(p - centre), 99.5))
    if reach <= 0 or (high <= low).any():
        raise InterpretationError(f"{where}: frames: expected a position and levels that vary, found a constant")
    return Scene(
        kind=config.scene, position=position, integrated=integrated, centre=(float(centre[0]), float(centre[1])), reach=reach,
        levels=levels, low=tuple(low.tolist()), high=tuple(high.tolist()), size=config.size,
    )  # fmt: skip


def _positions(session: Session, rows: NDArray[np.int64], names: tuple[str, str], integrated: bool) -> list[Floats]:
    """Position (T_i, 2) in every trial."""
    assert session.kinematics is not None
    k = session.kinematics[:, [session.kinematics_names.index(n) for n in names]].astype(np.float64)
    cuts = [k[a:b] for a, b in rows]
    return [np.cumsum(c, axis=0) * session.bin_s for c in cuts] if integrated else cuts


def render(session: Session, day: FactorDay, scene: Scene) -> list[Array]:
    """Frames (T_i, H, W) of every rewarded trial; a bar of an unlabelled behaviour is empty."""
    columns = [day.names.index(n) for n in scene.levels]
    positions = _positions(session, day.trials, scene.position, scene.integrated)
    low = np.array(scene.low)
    out = []
    for (a, b), p in zip(day.trials, positions, strict=True):
        levels = day.behaviours[a:b][:, columns].astype(np.float64)
        out.append(scene.draw(p, np.where(np.isfinite(levels), levels, low)))
    return out
