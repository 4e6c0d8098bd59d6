import base64
import re

import pytest

from bci_align.errors import ConfigError
from bci_align.report.figures import stages
from bci_align.report.page import Decision, Shown, Table, write_report

TABLE = Table(("Decoding", "R² (%)", "Trials"), (("day 0", 91.26, 30), ("a <script>", float("nan"), None)), "scored <here>")
CHECKS = ({"name": "spread of vx", "value": 0.91, "bound": "0.5 to 2", "passed": True},
          {"name": "prior & loss", "value": 0.6, "bound": "<= 0.5", "passed": False})  # fmt: skip


@pytest.fixture
def shown():
    record = [{"stage": "one", "denoising": 1.0, "kl": 2.0}, {"stage": "two", "denoising": 0.9, "kl": 1.0}]
    return Shown("objective", stages(record), 'the "objective" <b>')


def test_the_page_holds_everything_and_escapes_it(tmp_path, shown):
    path = tmp_path / "report.html"
    refused = Decision("Generation 1", False, "prior & loss 0.6, expected <= 0.5", CHECKS)
    written = write_report(path, "Day <K>", TABLE, [refused], [shown], {"Seed": 3, "Path": "a<b"}, lead="so & so")
    assert written == [path, tmp_path / "objective.png"]
    text = path.read_text(encoding="utf-8")
    for expected in ("<title>Day &lt;K&gt;</title>", "91.3", ">30<", "a &lt;script&gt;", "scored &lt;here&gt;", "Refused",
                     "prior &amp; loss", "&lt;= 0.5", "0.5 to 2", "0.91", "a&lt;b",
                     "so &amp; so", "&#34;objective&#34;"):  # fmt: skip
        assert expected in text, expected
    assert "<script" not in text and "nan" not in text and "None" not in text


def test_the_page_needs_nothing_else(tmp_path, shown):
    write_report(tmp_path / "r.html", "t", TABLE, figures=[shown])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=\"(?!data:)|<link|@import|url\(", text)
    (data,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert base64.b64decode(data) == (tmp_path / "objective.png").read_bytes()


def test_the_same_report_is_the_same_bytes(tmp_path, shown):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, "t", TABLE, [Decision("G", True, "every check passed")], [shown], overwrite=True)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_existing_files_are_kept_unless_told_otherwise(tmp_path, shown):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        write_report(path, "t", TABLE)
    assert path.read_text() == "mine"
    write_report(path, "t", TABLE, overwrite=True)
    assert "mine" not in path.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]


def test_what_does_not_fit_is_refused(tmp_path, shown):
    with pytest.raises(ValueError, match="3 cells"):
        write_report(tmp_path / "r.html", "t", Table(("a", "b", "c"), (("x",),)))
    with pytest.raises(ValueError, match="plain words"):
        write_report(tmp_path / "r.html", "t", TABLE, figures=[Shown("../x", shown.figure, "")])
    with pytest.raises(ValueError, match="plain words"):
        write_report(tmp_path / "r.html", "t", TABLE, figures=[shown, shown])
    assert list(tmp_path.iterdir()) == []
