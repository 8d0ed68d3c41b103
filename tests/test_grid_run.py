"""Running a grid in processes: order, failures, lost workers, full disks, going on."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grid_cells
import pytest
from grid_cells import BROKEN, DEADLY, LOG, NUMBER, content, grid

from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.cells import Cell, Kind, Result
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, About, Cost, claim_of
from invertune_plugin.benchmark.grid.engines import Engine, LocalEngine, open_engine
from invertune_plugin.benchmark.grid.plan import plan_cells
from invertune_plugin.benchmark.grid.run import Ran, mark_cells, run_plan
from invertune_plugin.benchmark.grid.store import DiskFull, Store
from invertune_plugin.benchmark.grid.work import Done, Task, work
from invertune_plugin.errors import InputError


class Here(Engine):
    """Computes cells in this process, one after the other."""

    slots = 1

    def submit(self, task: Task) -> Future[Done]:
        future: Future[Done] = Future()
        try:
            future.set_result(self.run(task))
        except BaseException as error:
            future.set_exception(error)
        return future

    def run(self, task: Task) -> Done:
        return work(task)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    return tmp_path / "log"


def run(cells: list[Cell], folder: Path, engine: Engine, again: bool = False) -> Ran:
    store = Store.open(folder)
    with store.locked():
        plan = plan_cells(cells, store, again)
        mark_cells(plan, store)
        return run_plan(plan, store, engine, lambda _: None, lambda *_: None)


def names_of(folder: Path) -> dict[str, Any]:
    store = Store.open(folder)
    return {claim.about.names["name"]: claim for claim in store.claims()}


def marks_of(folder: Path) -> dict[str, Any]:
    store = Store.open(folder)
    return {claim.about.names["name"]: claim for claim in store.claims("failures")}


def test_numbers_and_files_go_from_parents_to_children(tmp_path: Path, log: Path) -> None:
    assert run(grid(), tmp_path / "store", Here()) == Ran(computed=7, failed=0)
    claims = names_of(tmp_path / "store")
    assert claims["clean"].record["value"] == 1
    assert claims["victim-patch"].record["value"] == 2
    assert claims["patch-ft"].record["value"] == 1 + 2 + 1
    assert claims["patch-ft"].artefacts == ("log.txt", "number.txt")
    assert claims["patch-ft"].cost.peak_mb is None or claims["patch-ft"].cost.peak_mb > 1
    assert log.read_text().split()[0] == "clean"
    assert run(grid(), tmp_path / "store", Here()) == Ran(0, 0)
    assert len(log.read_text().split()) == 7, "nothing is computed twice"


def test_a_worker_leaves_a_cell_alone_that_was_stored_meanwhile(tmp_path: Path, log: Path) -> None:
    store, cell = Store.open(tmp_path / "store"), Cell(NUMBER, {"name": "one"})
    for _ in range(2):
        assert work(Task(store.root, About.of(cell), cell.kind.compute)).ok
    assert log.read_text().split() == ["one"]


def test_a_grid_grows(tmp_path: Path, log: Path) -> None:
    run(grid(("patch",), ("ft",)), tmp_path / "store", Here())
    assert run(grid(("patch",), ("ft", "par")), tmp_path / "store", Here()) == Ran(1, 0)
    assert log.read_text().split() == ["clean", "victim-patch", "patch-ft", "patch-par"]


def chain(tmp_path: Path) -> list[Cell]:
    """A cell that fails with two generations behind it, and a healthy one."""
    bad = Cell(BROKEN, {"name": "bad", "luck": str(tmp_path / "luck")})
    child = Cell(NUMBER, {"name": "child"}, (bad,))
    grandchild = Cell(NUMBER, {"name": "grandchild"}, (child,))
    return [grandchild, Cell(NUMBER, {"name": "healthy"})]


def test_a_cell_that_raises_takes_its_dependants_with_it(tmp_path: Path) -> None:
    assert run(chain(tmp_path), tmp_path / "store", Here()) == Ran(computed=1, failed=3)
    marks = marks_of(tmp_path / "store")
    assert marks["bad"].reason == "RuntimeError: no luck"
    assert 'raise failing("no luck")' in marks["bad"].traceback
    assert marks["bad"].log[0].endswith("about to fail")
    assert marks["bad"].record == {}
    for name in ("child", "grandchild"):
        assert marks[name].outcome == "failed"
        assert marks[name].reason.startswith("parent failed: broken luck=")
        assert marks[name].reason.endswith("no luck")
    assert list(names_of(tmp_path / "store")) == ["healthy"]


def test_a_cell_that_ends_its_process_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_cells, "failing", SystemExit)
    assert run(chain(tmp_path), tmp_path / "store", Here()) == Ran(computed=1, failed=3)
    assert marks_of(tmp_path / "store")["bad"].reason == "SystemExit: no luck"
    assert list(names_of(tmp_path / "store")) == ["healthy"]


def test_failed_cells_are_tried_again_where_asked_for(tmp_path: Path, log: Path) -> None:
    run(chain(tmp_path), tmp_path / "store", Here())
    before = content(tmp_path / "store")
    assert run(chain(tmp_path), tmp_path / "store", Here()) == Ran(0, 0)
    assert content(tmp_path / "store") == before
    assert log.read_text().split() == ["bad", "healthy"]
    (tmp_path / "luck").touch()
    assert run(chain(tmp_path), tmp_path / "store", Here(), again=True) == Ran(3, 0)
    assert marks_of(tmp_path / "store") == {}


def test_a_grid_that_has_failed_before_has_failed(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_bench(chain(tmp_path), tmp_path / "store", BenchOptions())
    assert first.failed > 0
    capsys.readouterr()
    assert run_bench(chain(tmp_path), tmp_path / "store", BenchOptions()) == Ran(0, 3)
    assert "3 cells failed earlier, or need one that did; --again" in capsys.readouterr().err


def test_a_run_without_processes_is_refused() -> None:
    with pytest.raises(InputError, match="one or more jobs, got 0"):
        BenchOptions(jobs=0)


def test_impossible_pairs_are_marked(tmp_path: Path) -> None:
    run(grid(("cross",), ("ft",)), tmp_path / "store", Here())
    marks = marks_of(tmp_path / "store")
    assert marks["cross-ft"].outcome == IMPOSSIBLE
    assert names_of(tmp_path / "store") == {}, "its parents are not needed"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_stored(tmp_path: Path, value: float) -> None:
    def compute(*_: object) -> Result:
        return Result({"ca": value})

    cell = Cell(Kind("odd", compute, ()), {"name": "odd"})
    assert run([cell], tmp_path / "store", Here()) == Ran(0, 1)
    assert "ValueError" in marks_of(tmp_path / "store")["odd"].reason
    assert not list((tmp_path / "store" / "artefacts").iterdir()), "it leaves no files"


def test_a_full_disk_stops_the_run_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Store.save, []

    def full(self: Store, *given: Any) -> None:
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(given)
        save(self, *given)

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(DiskFull, match=r"Expected room for the results.*run the same command"):
        run(grid(), tmp_path / "store", Here())
    monkeypatch.undo()
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    assert len(names_of(tmp_path / "store")) == 3
    assert marks_of(tmp_path / "store") == {}
    assert run(grid(), tmp_path / "store", Here()) == Ran(4, 0)


def test_a_failure_of_a_worker_whose_run_is_gone_is_not_stored(tmp_path: Path) -> None:
    bad = chain(tmp_path)[0].parents[0].parents[0]
    store = Store.open(tmp_path / "store")
    task = Task(store.root, About.of(bad), bad.kind.compute)
    with pytest.raises(SystemExit, match="is gone"):
        work(task, run_by=os.getpid())
    assert store.keys("failures") == set()
    assert work(task, run_by=os.getppid()).reason == "RuntimeError: no luck"
    assert store.keys("failures") == {bad.key}


def test_a_lost_scheduler_is_told(tmp_path: Path) -> None:
    class Lost(Here):
        def run(self, task: Task) -> Done:
            raise CancelledError

    with pytest.raises(InputError, match=r"Expected the scheduler to stay"):
        run(grid(), tmp_path / "store", Lost())


def test_workers_that_do_not_see_the_store_stop_the_run(tmp_path: Path) -> None:
    class Elsewhere(Here):
        def run(self, task: Task) -> Done:
            return work(replace(task, root=tmp_path / "other machine"))

    with pytest.raises(InputError, match=r"Expected a store in .*other machine, got nothing"):
        run(grid(), tmp_path / "store", Elsewhere())
    assert marks_of(tmp_path / "store") == {}


def test_processes_give_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(grid(), tmp_path / "here", Here())
    options = BenchOptions(jobs=2)
    run_bench(grid(), tmp_path / "there", options)
    assert content(tmp_path / "here") == content(tmp_path / "there")
    assert run_bench(grid(), tmp_path / "there", options) == Ran(0, 0)


def test_lost_workers(tmp_path: Path) -> None:
    """One cell loses its worker once, one every time; those beside them are not blamed."""
    cells = [
        Cell(DEADLY, {"name": name, "losses": losses, "marks": str(tmp_path / name)})
        for name, losses in (("once", 1), ("ever", 99))
    ]
    cells += [Cell(NUMBER, {"name": f"beside-{i}"}) for i in range(6)]
    with closing(LocalEngine(2)) as engine:
        assert run(cells, tmp_path / "store", engine) == Ran(computed=7, failed=1)
    assert "lost its worker 4 times" in marks_of(tmp_path / "store")["ever"].reason
    began = (tmp_path / "ever").read_text().split()
    assert 2 <= len(began) <= 4, "it may be lost with the other one before it begins"


class Fragile(Here):
    """Two cells at once; one that is called ever ends the processes of both."""

    slots = 2

    def __init__(self) -> None:
        self.flying: list[tuple[Task, Future[Done]]] = []

    def submit(self, task: Task) -> Future[Done]:
        future: Future[Done] = Future()
        self.flying.append((task, future))
        if len(self.flying) == 1:
            threading.Timer(0.05, self.resolve).start()
        return future

    def resolve(self) -> None:
        flying, self.flying = self.flying, []
        lost = any(task.about.names["name"] == "ever" for task, _ in flying)
        for task, future in flying:
            if lost:
                future.set_exception(BrokenExecutor("gone"))
            else:
                future.set_result(work(task))


def test_a_cell_beside_a_deadly_one_is_not_blamed(tmp_path: Path) -> None:
    cells = [Cell(NUMBER, {"name": name}) for name in ("ever", "beside")]
    assert run(cells, tmp_path / "store", Fragile()) == Ran(computed=1, failed=1)
    assert list(names_of(tmp_path / "store")) == ["beside"]


def test_bad_engines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"Expected at least one job, got 0"):
        open_engine(jobs=0)
    with pytest.raises(InputError, match=r"Expected a scheduler tcp://HOST:PORT.*got 'slurm'"):
        open_engine(scheduler="slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    for address, extra in (("ray", "ray"), ("tcp://127.0.0.1:1", "dask")):
        with pytest.raises(InputError, match=rf"pip install '\.\[{extra}\]'"):
            open_engine(scheduler=address)


def test_a_finished_grid_of_1000_cells_is_gone_through_in_two_seconds(tmp_path: Path) -> None:
    attacks = [f"attack-{i}" for i in range(100)]
    cells = grid(attacks, [f"defense-{i}" for i in range(9)])
    store = Store.open(tmp_path / "store")
    for cell in plan_cells(cells, store).cells:
        store.save(claim_of(About.of(cell), Result({"value": 1}), Cost(1.0), ()))
    assert len(store.keys()) == 1001
    start = time.perf_counter()
    fresh = grid(attacks, [f"defense-{i}" for i in range(9)])
    assert run_bench(fresh, tmp_path / "store", BenchOptions(jobs=2)) == Ran(0, 0)
    assert time.perf_counter() - start < 2


def test_handing_out_cells_costs_little(tmp_path: Path) -> None:
    """At most 2 % of cells of 10 s: 200 ms each; measured are about 10."""
    cells = grid([f"attack-{i}" for i in range(10)], [f"defense-{i}" for i in range(9)])
    with closing(LocalEngine(2)) as engine:
        run(grid(("warm",), ("up",)), tmp_path / "first", engine)
        start = time.perf_counter()
        assert run(cells, tmp_path / "store", engine) == Ran(101, 0)
        seconds = time.perf_counter() - start
    assert seconds / 101 < 0.1
