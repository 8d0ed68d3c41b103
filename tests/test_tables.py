"""The tables of README and docs say what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "tables.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_committed_results(tables: ModuleType) -> None:
    shown = 0
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        shown += len(tables.MARKED.findall(text))
        assert tables.rewritten(text) == text, f"run benchmarks/tables.py: {page.name} is old"
    assert shown == len(tables.TABLES)


def test_a_cell_tells_means_and_what_did_not_work(tables: ModuleType) -> None:
    fine = {"outcome": "ok", "ca_after": 0.9, "asr_after": 0.5}
    left = {"outcome": "rejected", "ca_after": 0.8, "asr_after": 1.0}
    assert tables.cell([fine, left]) == "85.0 / 75.0; rejected 1 of 2"
    assert tables.cell([{"outcome": "impossible", "reason": "It has no maps."}]) == (
        "impossible: It has no maps."
    )
    assert tables.cell([{"outcome": "ok", "tpr": 0.25, "fpr": 0.125}]) == "TPR 25.0, FPR 12.5"
    assert tables.cell([]) == "not run"


def test_a_spread_tells_the_range_where_there_is_one(tables: ModuleType) -> None:
    assert tables.spread([{"ca": 0.5}, {"ca": 0.75}], "ca") == "62.5 (50.0–75.0)"
    assert tables.spread([{"ca": 0.5}, {}], "ca") == "50.0"
    assert tables.spread([{}], "ca") == ""
