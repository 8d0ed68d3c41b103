"""A run that is killed at any moment loses nothing that was stored, and does none of it again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from grid_cells import LOG, SLEEP, content, kill_test_grid

from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.run import Ran
from invertune_plugin.benchmark.grid.store import Store

KILLS = 10
RUN = """
import sys
from pathlib import Path
from grid_cells import kill_test_grid
from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
run_bench(kill_test_grid(), Path(sys.argv[1]), BenchOptions(jobs=2, wait=True))
"""


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def stored(folder: Path) -> set[str]:
    if not (folder / "claims").exists():
        return set()
    return {claim.about.names["name"] for claim in Store(folder).claims()}


def run_and_kill(store: Path, log: Path, chance: random.Random, whole_group: bool) -> bool:
    """Start the grid, kill it a moment after a first cell began; whether it was at work."""
    before = len(lines(log))
    words = [sys.executable, "-c", RUN, str(store)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), SLEEP: "0.2"}
    with subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=-1, stderr=-1, text=True
    ) as process:
        while len(lines(log)) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        working = process.poll() is None
        if whole_group and working:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    return working


def test_workers_end_with_the_run_that_asked_for_them(tmp_path: Path) -> None:
    words = [sys.executable, "-c", RUN, str(tmp_path / "store")]
    log = tmp_path / "log"
    paths = {"PYTHONPATH": str(Path(__file__).parent), LOG: str(log), SLEEP: "60"}
    with subprocess.Popen(words, env=os.environ | paths, stdout=-1, stderr=-1) as process:
        while not lines(log):
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.kill()
        assert not psutil.wait_procs(workers, timeout=10)[1]


def test_a_grid_that_is_killed_ten_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "undisturbed.log"))
    cells = kill_test_grid()
    assert run_bench(cells, tmp_path / "undisturbed", BenchOptions(jobs=1)) == Ran(25, 0)
    log, store = tmp_path / "log", tmp_path / "store"
    monkeypatch.setenv(LOG, str(log))
    chance = random.Random(0)
    hits = 0
    for number in range(KILLS):
        already, before = stored(store), len(lines(log))
        hits += run_and_kill(store, log, chance, whole_group=number % 2 == 0)
        assert not already & set(lines(log)[before:]), "what was stored is not done again"
        assert already <= stored(store), "and not lost"
    assert hits > KILLS // 2, "the kills came while it was at work"
    already, before = stored(store), len(lines(log))
    run_bench(cells, store, BenchOptions(jobs=1, wait=True))
    assert not already & set(lines(log)[before:])
    assert content(store) == content(tmp_path / "undisturbed")
