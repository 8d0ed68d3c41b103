"""The example of ``docs/benchmark.md`` works as it stands."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from invertune_plugin.benchmark.grid.run import Ran
from invertune_plugin.benchmark.grid.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "benchmark.md"


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "my_grid.py").write_text(found.group(1), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_grid", raising=False)
    assert import_module("my_grid").main(tmp_path / "store") == Ran(computed=4, failed=0)
    store = Store.open(tmp_path / "store")
    shares = {c.about.names["attack"]: c.record["asr"] for c in store.claims() if c.record}
    assert shares == {"patch": 0.02, "blend": 0.9}
    (mark,) = store.claims("failures")
    assert (mark.outcome, mark.reason) == ("impossible", "a warp has no mask to invert")
