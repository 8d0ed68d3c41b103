"""Result files: rows of one experiment are replaced together, also where several write at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.record import Rows, merge_rows


def attack_of(row: dict[str, Any]) -> str:
    return str(row["attack"])


def command_of(rows: Rows) -> str:
    return " ".join(row["attack"] for row in rows)


def merged(out: Path, *rows: dict[str, Any]) -> None:
    merge_rows(out, list(rows), attack_of, command_of)


def test_rows_of_an_experiment_replace_its_older_ones(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    merged(out, {"attack": "patch", "asr": 0.9}, {"attack": "patch", "asr": 0.8})
    merged(out, {"attack": "blend", "asr": 0.5, "commit": "older"})
    merged(out, {"attack": "patch", "asr": 0.1})
    record = json.loads(out.read_text())
    assert [(row["attack"], row["asr"]) for row in record["rows"]] == [
        ("blend", 0.5),
        ("patch", 0.1),
    ]
    assert record["rows"][0]["commit"] == "older"
    assert record["command"] == "blend patch"
    assert record["machine"]["cores"] > 0
    lines = out.read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[-4:-2]] == record["rows"]


def test_of_dated_rows_the_newest_stays(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    merged(out, {"attack": "patch", "asr": 0.9, "created": "2026-02-01"})
    merged(out, {"attack": "patch", "asr": 0.1, "created": "2026-01-01"})
    assert [row["asr"] for row in json.loads(out.read_text())["rows"]] == [0.9]
    merged(out, {"attack": "patch", "asr": 0.2, "created": "2026-02-02"})
    assert [row["asr"] for row in json.loads(out.read_text())["rows"]] == [0.2]


def test_no_row_is_lost_where_several_write_at_once(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    names = [f"attack {number:02}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: merged(out, {"attack": name}), names))
    assert [row["attack"] for row in json.loads(out.read_text())["rows"]] == names
