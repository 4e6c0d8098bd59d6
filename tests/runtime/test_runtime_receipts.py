"""Receipts: for every decision the numbers, thresholds and the verdict, as JSON and on a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bci_align.errors import RuntimeFault
from bci_align.runtime import audit
from bci_align.runtime.receipts import KINDS, record, write

pytestmark = pytest.mark.computes

REFUSED: dict[str, Any] = {
    "generation": 3, "trials": 40, "seconds": 12.345, "accepted": False,
    "reason": "spread of <vx> is 9, expected 0.5 to 2",
    "checks": [
        {"name": "spread of <vx>", "value": np.float64(9), "bound": "0.5 to 2", "passed": False},
        {"name": "clamped", "value": 0.012345678, "bound": 0.05, "passed": True},
        {"name": "ratio", "value": 1, "bound": [0.33, 3.0], "passed": True},
    ],
}  # fmt: skip


def test_a_refusal_says_what_was_compared_and_why(tmp_path: Path) -> None:
    n = record(tmp_path, "refused", REFUSED)
    folder = tmp_path / "receipts"
    assert sorted(p.name for p in folder.iterdir()) == ["0001-refused.html", "0001-refused.json"]
    content = json.loads((folder / "0001-refused.json").read_text())
    entry = audit.verify(tmp_path).entries[n - 1].content
    assert {k: content[k] for k in REFUSED} == {k: entry[k] for k in REFUSED}
    page = (folder / "0001-refused.html").read_text()
    for text in (
        "Generation 3 was refused by the gate", "aligned on 40 trials", "Spread of &lt;vx&gt; is 9, expected 0.5 to 2",
        "at most 0.05", "0.33 to 3", "0.01235", 'class="no">no', 'class="yes">yes',
    ):  # fmt: skip
        assert text in page
    assert "<vx>" not in page


@pytest.mark.parametrize("decision", KINDS)
def test_every_kind_has_a_page_whatever_is_known(tmp_path: Path, decision: str) -> None:
    content = {"generation": 2, "to": 1, "bin": 712, "warm_from_seq": 3, "trials": 40, "bins": 100, "passed": True}
    record(tmp_path, "other", {"generation": 1})
    assert record(tmp_path, decision, content) == 2
    assert record(tmp_path, decision, {}) == 3
    full, empty = ((tmp_path / "receipts" / f"000{n}-{decision}.html").read_text() for n in (2, 3))
    assert "(unknown)" not in full
    assert ("(unknown)" in empty) == ("{" in "".join(KINDS[decision]))
    assert len(list((tmp_path / "receipts").iterdir())) == 4  # none for what is no decision of theirs


def test_a_receipt_is_never_replaced_and_a_fault_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path, "frozen", {}, 1)
    with pytest.raises(RuntimeFault, match="already exists"):
        write(tmp_path, "frozen", {}, 1)
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeFault, match="cannot be made a directory"):
        write(tmp_path / "file", "frozen", {}, 1)
