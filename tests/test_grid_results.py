"""``invertune results``: rows, filters, differences and exports, written by hand and compared."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grid_cells import NUMBER

from invertune_plugin import cli
from invertune_plugin.benchmark.commands import results as results_command
from invertune_plugin.benchmark.grid.cells import Cell, Result
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, About, Claim, Cost, claim_of
from invertune_plugin.benchmark.grid.store import Store


def rate(name: str, value: float, low: float, high: float, n: int = 100) -> dict[str, Any]:
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}


def put(store: Store, settings: dict[str, Any], record: dict[str, Any], *doubts: str) -> None:
    about = About.of(Cell(NUMBER, settings))
    store.save(claim_of(about, Result(record, doubts), Cost(2.0, 50.0), ()))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two defences of one attack, and one that failed."""
    made = Store.open(tmp_path / "store")
    put(made, {"attack": "a_b", "defense": "ft", "seed": 0}, rate("asr", 0.25, 0.2, 0.3))
    few = rate("asr", 0.5, 0.1, 0.9, 4)
    put(made, {"attack": "a_b", "defense": "none", "seed": 0}, few, "only 4 images")
    failed = About.of(Cell(NUMBER, {"attack": "a_b", "defense": "par", "seed": 0}))
    made.mark(Claim(failed, "failed", reason="no luck"))
    return tmp_path / "store"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["invertune", "results", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join((said.out + said.err).split())

    return run


def test_rows_are_listed_with_intervals_and_failures(results: Any, store: Path) -> None:
    code, said = results(store)
    assert code == 0
    assert "25.0" in said
    assert "[20.0, 30.0]" not in said, "intervals are for the files"
    assert "ok (doubtful)" in said
    assert "failed" in said
    assert "3 rows" in said


def test_rows_are_filtered(results: Any, store: Path) -> None:
    assert "1 rows" in results(store, "--where", "defense=ft", "--where", "attack=a_b")[1]
    assert "1 rows" in results(store, "--where", "outcome=failed")[1]
    code, said = results(store, "--where", "defence=ft")
    assert code == 2
    assert "Expected a known name in a filter, got 'defence'. Did you mean 'defense'?" in said


def test_exports(results: Any, store: Path, tmp_path: Path) -> None:
    words = []
    for form in ("csv", "latex", "markdown"):
        words += [f"--{form}", tmp_path / form]
    assert results(store, *words)[0] == 0
    with (tmp_path / "csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["defense"] for row in rows] == ["ft", "none", "par"]
    assert (rows[0]["asr"], rows[0]["asr_n"], rows[0]["seconds"]) == ("0.25", "100", "2.0")
    assert (rows[2]["asr"], rows[2]["outcome"], rows[2]["reason"]) == ("", "failed", "no luck")
    assert (tmp_path / "latex").read_text() == (
        "\\begin{tabular}{lllrr}\n"
        "\\toprule\n"
        "kind & defense & outcome & asr & seconds \\\\\n"
        "\\midrule\n"
        "number & ft & ok & 25.0 [20.0, 30.0] & 2.0 \\\\\n"
        "number & none & ok (doubtful) & 50.0 [10.0, 90.0] & 2.0 \\\\\n"
        "number & par & failed &  &  \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )
    assert (tmp_path / "markdown").read_text().splitlines() == [
        "| kind | defense | outcome | asr | seconds |",
        "| --- | --- | --- | --- | --- |",
        "| number | ft | ok | 25.0 [20.0, 30.0] | 2.0 |",
        "| number | none | ok (doubtful) | 50.0 [10.0, 90.0] | 2.0 |",
        "| number | par | failed |  |  |",
    ]
    code, said = results(store, *words)
    assert code == 2
    assert "Pass --overwrite" in said
    assert results(store, *words, "--overwrite")[0] == 0


def test_names_are_escaped_for_latex(results: Any, store: Path, tmp_path: Path) -> None:
    results(store, "--where", "defense=ft", "--latex", tmp_path / "one.tex")
    assert "number & a\\_b & ft & 0 & ok" in (tmp_path / "one.tex").read_text()


def test_of_several_results_that_of_the_grid_counts(
    results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = Store.open(tmp_path / "store"), {"attack": "a_b", "defense": "ft", "seed": 0}
    ours, other = Cell(NUMBER, told), Cell(NUMBER, told | {"options": {"tau": 1.0}})
    for cell, left, day in ((ours, 0.25, "1"), (other, 0.75, "2")):
        found = claim_of(About.of(cell), Result(rate("asr", left, 0.0, 1.0)), Cost(2.0), ())
        made.save(replace(found, origin={"created": day}))
    monkeypatch.setattr(results_command, "load_bench", lambda name: [name])
    monkeypatch.setattr(results_command, "bench_cells", lambda bench: [ours])
    assert "75.0" in results(tmp_path / "store")[1]
    code, said = results(tmp_path / "store", "--grid", "mine.yaml")
    assert code == 0
    assert "25.0" in said
    assert "75.0" not in said
    assert "Left out: 1 other results" in said
    absent = Cell(NUMBER, told | {"options": {"tau": 2.0}})
    made.mark(Claim(About.of(absent), IMPOSSIBLE, reason="no clone", origin={"created": "3"}))
    monkeypatch.setattr(results_command, "bench_cells", lambda bench: [absent])
    assert "75.0" in results(tmp_path / "store", "--grid", "mine.yaml")[1]


def test_two_stores_are_compared(results: Any, store: Path, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    apart = rate("asr", 0.75, 0.7, 0.8) | {"seconds_target": 3}
    put(other, {"attack": "a_b", "defense": "ft", "seed": 0}, apart)
    put(other, {"attack": "a_b", "defense": "none", "seed": 0}, rate("asr", 0.5, 0.1, 0.9, 4))
    code, said = results(store, "--diff", tmp_path / "other")
    assert code == 0
    assert "defense=ft seed=0 │ asr │ 0.25 │ 0.75 │ apart" in said
    assert "defense=par seed=0 │ cell │ there │ absent" in said
    assert "2 differences, 1 with intervals apart." in said
    assert "0 differences" in results(store, "--diff", store)[1]


def test_a_folder_without_a_store_is_refused_and_not_made(results: Any, tmp_path: Path) -> None:
    code, said = results(tmp_path / "absent")
    assert code == 2
    assert "Expected a store in" in said
    assert not (tmp_path / "absent").exists()
