"""Tables on standard output."""

from __future__ import annotations

import pytest

from invertune_plugin.console import table

HEADER = [f"column {number}" for number in range(15)]
ROW = [f"{number}.5 / [{number}]" for number in range(15)]


def test_a_piped_table_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    table(HEADER, [ROW])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(cell in line for cell in ROW) for line in lines)


def test_a_narrow_terminal_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    table(["attack", "told"], [["BadNets", "a-long-word" * 10]])
    said = capsys.readouterr().out
    assert "…" not in said
    assert len(said.splitlines()[0]) == 40
    assert "".join(said.split()).count("long") >= 5
