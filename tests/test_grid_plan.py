"""What a grid still has to do, on a diamond: clean -> victim -> repair, which needs both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from grid_cells import LOG, NUMBER, REPAIR, grid

from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.cells import Cell, Result
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, About, Claim, Cost, claim_of
from invertune_plugin.benchmark.grid.estimate import duration, estimate, overview
from invertune_plugin.benchmark.grid.plan import Plan, choose, plan_cells
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.errors import InputError


def done(store: Store, cell: Cell, seconds: float = 1.0) -> None:
    with store.working_folder(cell.key) as folder:
        (folder / "number.txt").write_text("1")
        claim = claim_of(About.of(cell), Result({"value": 1}), Cost(seconds), ("number.txt",))
        store.save(claim, folder)


def named(cells: tuple[Cell, ...]) -> list[str]:
    return [cell.settings["name"] for cell in cells]


def one() -> tuple[Cell, Cell, Cell]:
    """The cells of one diamond: clean, victim, repair."""
    repair = grid(("patch",), ("ft",))[0]
    victim, clean = repair.parents
    return clean, victim, repair


def test_all_cells_of_a_new_grid_are_missing_parents_first(tmp_path: Path) -> None:
    plan = plan_cells(grid(), Store.open(tmp_path))
    assert named(plan.missing) == [
        "clean",
        "victim-patch",
        "patch-none",
        "patch-ft",
        "victim-blend",
        "blend-none",
        "blend-ft",
    ]
    assert plan.done == frozenset()


def test_only_what_a_wanted_cell_needs_is_computed(tmp_path: Path) -> None:
    clean, victim, repair = one()
    store = Store.open(tmp_path)
    done(store, clean)
    assert named(plan_cells([repair], store).missing) == ["victim-patch", "patch-ft"]
    done(store, repair)
    assert plan_cells([repair], store).missing == (), "nobody needs the victim any more"
    assert named(plan_cells([repair, victim], store).missing) == ["victim-patch"]


def test_a_parent_whose_files_are_gone_is_made_again_where_it_is_needed(tmp_path: Path) -> None:
    clean, victim, repair = one()
    store = Store.open(tmp_path)
    done(store, clean)
    done(store, victim)
    shutil.rmtree(store.folder(victim.key))
    assert named(plan_cells([repair], store).missing) == ["victim-patch", "patch-ft"]
    done(store, repair)
    assert plan_cells([repair], store).missing == ()


def test_impossible_cells_are_marked_with_a_reason_before_anything_runs(tmp_path: Path) -> None:
    cells = grid(("patch", "cross"), ("ft",))
    after = Cell(NUMBER, {"name": "after"}, (cells[1],))
    last = Cell(NUMBER, {"name": "last"}, (after,))
    plan = plan_cells([*cells, last], Store.open(tmp_path))
    assert named(plan.missing) == ["clean", "victim-patch", "patch-ft"]
    assert plan.marked[cells[1].key].outcome == IMPOSSIBLE
    assert plan.marked[cells[1].key].reason == "cross is not repairable"
    for child in (after, last):
        assert plan.marked[child.key].outcome == IMPOSSIBLE
        assert plan.marked[child.key].reason.startswith("parent impossible: repair name=cross-ft")
        assert plan.marked[child.key].reason.endswith(": cross is not repairable")


def test_what_failed_is_tried_again_only_where_asked_for(tmp_path: Path) -> None:
    _, victim, repair = one()
    store = Store.open(tmp_path)
    store.mark(Claim(About.of(victim), "failed", reason="RuntimeError: no luck"))
    plan = plan_cells([repair], store)
    assert (plan.missing, plan.failed) == ((), {victim.key: "RuntimeError: no luck"})
    assert plan.marked[repair.key].outcome == "failed"
    assert plan.marked[repair.key].reason.endswith("RuntimeError: no luck")
    store.mark(plan.marked[repair.key])
    assert len(plan_cells([repair], store, again=True).missing) == 3
    done(store, victim)
    assert len(plan_cells([repair], store).missing) == 2, "its parent works now"


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        ([], ["patch-none", "patch-ft", "blend-none", "blend-ft"]),
        (["attack=patch"], ["patch-none", "patch-ft"]),
        (["attack=patch", "defense=ft"], ["patch-ft"]),
        (["attack=patch", "attack=blend", "seed=3", "defense=none"], ["patch-none", "blend-none"]),
        (["kind=repair", "name=blend-ft"], ["blend-ft"]),
    ],
)
def test_filters(only: list[str], chosen: list[str]) -> None:
    assert [cell.settings["name"] for cell in choose(grid(), only)] == chosen


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("patch", r"Expected a filter name=value, got 'patch'"),
        ("atack=patch", r"Expected a known name in a filter, got 'atack'.*attack"),
        ("attack=pach", r"Expected a known attack, got 'pach'.*patch"),
    ],
)
def test_filters_that_choose_nothing_known_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(grid(), [word])


def test_costs_are_those_of_similar_cells(tmp_path: Path) -> None:
    clean, victim, repair = one()
    other = Cell(NUMBER, {"name": "other", "tower": "vit"})
    third = Cell(NUMBER, {"name": "third", "tower": "vit"})
    store = Store.open(tmp_path)
    done(store, clean, 10)
    done(store, other, 30)
    lone = Cell(NUMBER, {"name": "lone"})
    seconds = estimate([victim, repair, third, lone], store.claims())
    assert [seconds[cell.key] for cell in (victim, repair, third, lone)] == [10, 30, 30, 20]
    assert REPAIR.seconds == 30, "the guess of the kind"


TIMED = (("quick", "rn"), ("slow", "vit"), ("quick", "vit"), ("new", "rn"))


def test_costs_are_told_by_defence(tmp_path: Path) -> None:
    def cell(defense: str, tower: str) -> Cell:
        return Cell(NUMBER, {"defense": defense, "tower": tower})

    store = Store.open(tmp_path)
    done(store, cell("quick", "rn"), 2)
    done(store, cell("slow", "rn"), 300)
    done(store, cell("slow", "vit"), 500)
    cells = [Cell(NUMBER, cell(d, t).settings | {"own": 2}) for d, t in TIMED]
    seconds = estimate(cells, store.claims())
    assert [seconds[cell.key] for cell in cells] == [2, 500, 2, 151]


def test_an_overview_counts_cells_by_kind(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    cells = grid(("patch", "cross"), ("ft",))
    done(store, one()[0], 10)
    plan: Plan = plan_cells(cells, store)
    assert overview(plan, estimate(plan.missing, store.claims())) == [
        ["number", "3", "1", "1", "0", "0", "10"],
        ["repair", "2", "0", "1", "0", "1", "30"],
    ]


def test_a_dry_run_tells_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    options = BenchOptions(only=("defense=ft",), dry_run=True, jobs=2)
    run_bench(grid(), tmp_path / "store", options)
    said = " ".join(capsys.readouterr().err.split())
    assert "5 of 5 cells to run: about 66 seconds, at best 33 seconds with --jobs 2." in said
    assert list(tmp_path.iterdir()) == []


def test_times_are_said_as_people_do() -> None:
    assert [duration(s) for s in (1, 119, 300, 7200, 200000)] == [
        "1 seconds",
        "119 seconds",
        "5.0 minutes",
        "2.0 hours",
        "2.3 days",
    ]
