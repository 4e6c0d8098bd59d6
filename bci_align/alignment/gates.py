"""Gates by name: whoever is asked whether a candidate may decode. Every one of them must say yes.

A gate is a function with the signature of :func:`bci_align.alignment.gate.judge` behind an entry point of the group
``bci_align.gates``; the standard one is ``standard``. A laboratory with a rule of its own installs a package and names both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bci_align.alignment.gate import Verdict
from bci_align.bundle.store import Bundle
from bci_align.config import GateConfig
from bci_align.errors import ConfigError
from bci_align.models.encoder import SourceModel
from bci_align.models.read_in import ReadIn
from bci_align.plugins import load_entry_point
from bci_align.session.types import UnlabelledTrials

GROUP = "bci_align.gates"

Gate = Callable[..., Verdict]
"""``judge(bundle, incumbent, candidate, trials, config, matched, encoder)``."""


class Gates:
    """Several gates as one: accepted where all accept, the reasons of those that refuse joined, all checks kept."""

    def __init__(self, names: Sequence[str]) -> None:
        """Load the gates called ``names``; :class:`ConfigError` for one that is not installed, broken, or no function."""
        self._gates: dict[str, Gate] = {}
        for name in names:
            gate = load_entry_point(GROUP, "gates", name)
            if not callable(gate):
                raise ConfigError(f"gates: {name!r}: expected a function, found {type(gate).__name__}")
            self._gates[name] = gate

    def __call__(
        self,
        bundle: Bundle,
        incumbent: ReadIn,
        candidate: ReadIn,
        trials: UnlabelledTrials,
        config: GateConfig,
        matched: NDArray[np.intp] | None = None,
        encoder: SourceModel | None = None,
    ) -> Verdict:
        """Ask every gate, those behind a refusal too: the record then says all that speaks against a candidate.

        Where there is more than one, checks begin with their gate's name. Raises :class:`ConfigError` for a gate that gives
        anything but a :class:`Verdict`; what a gate itself raises is not caught.
        """
        checks: list[dict[str, Any]] = []
        refusals = []
        for name, gate in self._gates.items():
            verdict = gate(bundle, incumbent, candidate, trials, config, matched, encoder)
            if not isinstance(verdict, Verdict):
                raise ConfigError(f"gates: {name!r}: expected a Verdict, found {type(verdict).__name__}")
            several = len(self._gates) > 1
            checks += [c | {"name": f"{name}: {c['name']}"} if several else c for c in verdict.checks]
            if not verdict.accepted:
                refusals.append(f"gate {name}: {verdict.reason}" if several else verdict.reason)
        return Verdict(not refusals, "; ".join(refusals) or "every check passed", tuple(checks))
