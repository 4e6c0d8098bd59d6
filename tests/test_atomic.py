import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bci_align.atomic import write_directory, write_file
from bci_align.bundle.store import Bundle, load_bundle
from bci_align.errors import BciAlignError, BundleError


def entries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_file_appears_whole_and_alone(tmp_path: Path) -> None:
    with write_file(tmp_path / "a.npz") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npz"
        temporary.write_text("new")
        assert not (tmp_path / "a.npz").exists()
    assert entries(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_fault_leaves_the_old_file(tmp_path: Path, fault: type[BaseException]) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(fault), write_file(tmp_path / "a", overwrite=True) as temporary:
        temporary.write_text("half")
        raise fault
    assert entries(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_an_existing_file_is_refused_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(BundleError, match=r"a: already exists"), write_file(target, error=BundleError):
        pytest.fail("the body must not run")
    with write_file(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(BciAlignError, match="already exists"), write_file(tmp_path / "a") as temporary:
        temporary.write_text("ours")
        (tmp_path / "a").write_text("theirs")
    assert entries(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "theirs"


def test_a_missing_directory_and_wrong_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(BciAlignError, match="does not exist"), write_file(tmp_path / "no" / "a"):
        pass
    with pytest.raises(BciAlignError, match="found a directory"), write_file(tmp_path, overwrite=True):
        pass
    (tmp_path / "f").touch()
    with pytest.raises(BciAlignError, match="found a file"), write_directory(tmp_path / "f", overwrite=True):
        pass
    with pytest.raises(BciAlignError, match="cannot be written"), write_file(tmp_path / "nothing"):
        pass
    assert entries(tmp_path) == ["f"]


def fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "x").write_text(text)


def test_directory_appears_whole_and_alone(tmp_path: Path) -> None:
    with write_directory(tmp_path / "b") as temporary:
        fill(temporary, "new")
        assert entries(tmp_path) == [temporary.name]
    assert entries(tmp_path) == ["b"] and (tmp_path / "b/deep/x").read_text() == "new"
    with pytest.raises(BciAlignError, match="already exists"), write_directory(tmp_path / "b"):
        pytest.fail("the body must not run")
    with write_directory(tmp_path / "b", overwrite=True) as temporary:
        fill(temporary, "newer")
    assert entries(tmp_path) == ["b"] and (tmp_path / "b/deep/x").read_text() == "newer"


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_fault_leaves_the_old_directory(tmp_path: Path, fault: type[BaseException]) -> None:
    with write_directory(tmp_path / "b") as temporary:
        fill(temporary, "old")
    with pytest.raises(fault), write_directory(tmp_path / "b", overwrite=True) as temporary:
        fill(temporary, "half")
        raise fault
    assert entries(tmp_path) == ["b"] and (tmp_path / "b/deep/x").read_text() == "old"


def test_an_old_directory_comes_back_when_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write_directory(tmp_path / "b") as temporary:
        fill(temporary, "old")
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(BciAlignError, match="No space left"), write_directory(tmp_path / "b", overwrite=True) as temporary:
        fill(temporary, "new")
    assert entries(tmp_path) == ["b"] and (tmp_path / "b/deep/x").read_text() == "old"


KILLED = """
import os, sys, pathlib
from bci_align import atomic
def stop(*a):
    print("here", flush=True)
    sys.stdin.read()
setattr(atomic, sys.argv[2], stop)
with atomic.write_directory(sys.argv[1]) as t:
    (t / "x").write_text("half")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("where", ["_sync_tree", "_move_in"])
def test_a_kill_leaves_no_half_written_directory(tmp_path: Path, where: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "b"), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "b").exists()


GENERATIONS = """
import sys
from pathlib import Path
from bci_align.atomic import write_directory, write_file
out, bundle = Path(sys.argv[1]), {p.name: p.read_bytes() for p in Path(sys.argv[2]).iterdir()}
n = sum(p.name.startswith("gen-") for p in out.iterdir())
print("ready", flush=True)
while True:
    n += 1
    path = out / f"gen-{n:04d}"
    with write_directory(path) as temporary:  # as a generation is saved
        for name, data in bundle.items():
            (temporary / name).write_bytes(data)
    with write_file(out / "committed", overwrite=True) as temporary:
        temporary.write_text(path.name)
    print(n, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_sigkills_while_writing_generations_leave_the_last_good_one(tmp_path: Path, small_bundle: Bundle) -> None:
    """Killed at any instant, every generation that has its name is whole, and the one named as committed is the last told of."""
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", GENERATIONS, str(tmp_path), str(small_bundle.path)]
    told = 0
    for _ in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            told = max([told, *map(int, process.stdout.read().split())])
        for path in tmp_path.glob("gen-*"):
            assert load_bundle(path).identity == small_bundle.identity
        if told:
            committed = (tmp_path / "committed").read_text()
            assert int(committed.removeprefix("gen-")) >= told
            load_bundle(tmp_path / committed)
    assert told > 0
