"""The store of a grid: complete or absent, one run at a time, and no newer than this version."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grid_cells import NUMBER

from invertune_plugin.benchmark.grid import store as store_module
from invertune_plugin.benchmark.grid.cells import Cell, Result
from invertune_plugin.benchmark.grid.claims import About, Claim, Cost, claim_of
from invertune_plugin.benchmark.grid.rows import is_share, rows_of
from invertune_plugin.benchmark.grid.store import DiskFull, Store
from invertune_plugin.errors import InputError

ABOUT = About.of(Cell(NUMBER, {"name": "a", "seed": 7}))


def saved(store: Store, text: str = "x") -> Claim:
    with store.working_folder(ABOUT.key) as folder:
        (folder / "file.txt").write_text(text)
        result = Result({"ca": 0.5, "ca_n": 4, "passes": 12, "outcome": "uncertain"}, ("n < 100",))
        claim = claim_of(ABOUT, result, Cost(1.5, 100.0), ("file.txt",))
        store.save(claim, folder)
    return claim


def test_a_claim_comes_back_with_all_that_is_needed_to_judge_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    claim = saved(store)
    assert Store.open(tmp_path / "store").claims() == [claim]
    assert (store.folder(ABOUT.key) / "file.txt").read_text() == "x"
    content = json.loads((store.root / "claims" / f"{ABOUT.key}.json").read_text())
    assert content["seeds"] == {"seed": 7}
    assert content["reliable"] is False
    assert (content["outcome"], content["passes"]) == ("uncertain", 12)
    assert content["cost"] == {"seconds": 1.5, "peak_mb": 100.0, "peak_gpu_mb": None}
    assert {"hardware", "versions", "commit", "created"} == set(content["origin"])
    assert not list(store.root.rglob("*.partial")), "no working folder is left"


def test_the_first_claim_of_a_cell_stays_while_its_files_are_there(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    saved(store, "first")
    saved(store, "second")
    assert (store.folder(ABOUT.key) / "file.txt").read_text() == "first"
    (store.folder(ABOUT.key) / "file.txt").unlink()
    assert not store.usable(ABOUT.key)
    saved(store, "third")
    assert (store.folder(ABOUT.key) / "file.txt").read_text() == "third"


def test_success_takes_back_a_failure(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.mark(Claim(ABOUT, "failed", reason="why", traceback="line"))
    assert store.failure(ABOUT.key).reason == "why"
    saved(store)
    assert store.keys("failures") == set()


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"format": 2, "made_by": "9.0"}))
    with pytest.raises(InputError, match=r"format 1 or older.*format 2 of invertune 9\.0\. Update"):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "x", "made_by": ""}'])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(InputError, match=r"Expected the card of a store"):
        Store.open(tmp_path)


def test_folders_that_are_no_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"Expected a store in .*, got something else"):
        Store.open(tmp_path)
    with pytest.raises(InputError, match=r"Expected a store in .*, got something else"):
        Store.open(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"Expected a store in .*, got nothing"):
        Store.open(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("text", ['{"seeds": 1}', "[1]", "[" * 100_000])
def test_a_file_that_is_no_claim_is_refused(tmp_path: Path, text: str) -> None:
    store = Store.open(tmp_path)
    (tmp_path / "claims" / "abc.json").write_text(text)
    with pytest.raises(InputError, match=r"Expected a claim in .*abc\.json.*Delete the file"):
        store.claims()


def test_claims_of_strangers_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    record = {"about": "another", "asr": "nine", "asr_low": 0.1, "asr_high": 0.2, "asr_n": 3}
    store.save(claim_of(ABOUT, Result(record), Cost(0), ()))
    path = tmp_path / "claims" / f"{ABOUT.key}.json"
    content = json.loads(path.read_text())
    del content["origin"]
    path.write_text(json.dumps(content))
    (row,) = rows_of(store)
    assert row["about"] == ABOUT.names
    assert (row["commit"], row["created"]) == (None, "")
    assert not is_share(row, "asr")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.EDQUOT, "quota"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "denied"), False),
        (RuntimeError("no luck"), False),
    ],
)
def test_errors_of_a_full_disk_are_known(tmp_path: Path, error: Exception, full: bool) -> None:
    wrapped = InputError("Expected to write it")
    wrapped.__cause__ = error
    told = Store(tmp_path).full(wrapped)
    assert (told is not None) == full
    assert told is None or str(error) in str(told), "it may be another disk"


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_records_that_are_not_flat_are_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"Expected a flat record of a number cell.*curve"):
        claim_of(ABOUT, Result({"curve": value}), Cost(0), ())


HOLD = """
import sys
from pathlib import Path
from invertune_plugin.benchmark.grid.store import Store
with Store.open(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_two_runs_on_one_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=r"for this run alone.*pass --wait"), store.locked():
            pass
        other.stdin.write("go\n")
        other.stdin.flush()
        with store.locked(wait=True), pytest.raises(InputError), Store(tmp_path).locked():
            pytest.fail("the store is held by the run that waited")


def test_a_run_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.kill()
        other.wait()
    with store.locked():
        pass


def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    old = tmp_path / "artefacts" / ".a.partial"
    young = tmp_path / "artefacts" / ".b.partial"
    file = tmp_path / "claims" / ".c.partial"
    for folder in (old, young):
        folder.mkdir()
    file.write_text("half")
    past = time.time() - store_module.ABANDONED_AFTER - 1
    for path in (old, file):
        os.utime(path, (past, past))
    with store.locked():
        assert (old.exists(), young.exists(), file.exists()) == (False, True, False)


def test_a_full_disk_gets_a_sentence_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    first = saved(store)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    other = Claim(About.of(Cell(NUMBER, {"name": "b"})), "ok")
    with pytest.raises(DiskFull, match=r"got a disk that is full.*free some space"):
        store.save(other)
    monkeypatch.undo()
    assert store.claims() == [first]
    assert not list(tmp_path.rglob("*.partial"))
