"""The same grid on a real Dask cluster: a scheduler and two worker processes on loopback."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from grid_cells import BROKEN, LOG, SLEEP, content, kill_test_grid

from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.cells import Cell
from invertune_plugin.benchmark.grid.engines import open_engine
from invertune_plugin.benchmark.grid.run import Ran
from invertune_plugin.errors import InputError

distributed = pytest.importorskip("distributed", reason="needs the extra [dask]")


def kill_in_the_middle(pid: int, log: Path) -> None:
    while not log.exists() or len(log.read_text().split()) < 8:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def test_a_dask_cluster_that_loses_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, cells = tmp_path / "log", kill_test_grid()
    cells.append(Cell(BROKEN, {"name": "broken", "luck": "/no/luck"}))
    monkeypatch.setenv(LOG, str(log))
    assert run_bench(cells, tmp_path / "here", BenchOptions()) == Ran(25, 1)
    log.unlink()
    monkeypatch.setenv(SLEEP, "0.1")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
        silence_logs=True,
    ) as cluster:
        killer = threading.Thread(
            target=kill_in_the_middle, args=(cluster.workers[0].pid, log), daemon=True
        )
        killer.start()
        options = BenchOptions(scheduler=cluster.scheduler_address)
        assert run_bench(cells, tmp_path / "there", options) == Ran(25, 1)
        assert not killer.is_alive(), "a worker was killed"
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_an_address_without_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invertune_plugin.benchmark.grid.engines.PATIENCE", "0.2s")
    with pytest.raises(InputError, match=r"Expected a Dask scheduler at tcp://127\.0\.0\.1:9"):
        open_engine(scheduler="tcp://127.0.0.1:9")
