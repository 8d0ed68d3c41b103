"""Result files: rows of one experiment are replaced together, also where several write at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark import provenance
from invertune_plugin.benchmark.commands.command_line import command_line
from invertune_plugin.benchmark.grid.rows import row_rank
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


def test_a_row_of_a_lower_rank_replaces_none(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    measured = {"attack": "patch", "asr": 0.9, "outcome": "ok", "created": "2026-01-01"}
    absent = {"attack": "patch", "outcome": "impossible", "created": "2026-01-02"}
    for rows, stays in (([absent], absent), ([measured], measured), ([absent], measured)):
        merge_rows(out, rows, attack_of, command_of, row_rank)
        (row,) = json.loads(out.read_text())["rows"]
        assert row["outcome"] == stays["outcome"]


def test_no_row_is_lost_where_several_write_at_once(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    names = [f"attack {number:02}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: merged(out, {"attack": name}), names))
    assert [row["attack"] for row in json.loads(out.read_text())["rows"]] == names


@dataclass(frozen=True)
class Job:
    """Options of a command."""

    data: str
    out: Path
    by: str = "flare"
    quick_gelu: bool | None = None
    overwrite: bool = False


def test_the_command_of_a_job_can_be_typed_into_a_shell() -> None:
    job = Job("my data", Path("out"), quick_gelu=False)
    told = "invertune purify 'my data' --out out"
    assert command_line("purify", job, "data") == f"{told} --no-quick-gelu"
    job = Job("my data", Path("out"), by="dao", overwrite=True)
    assert command_line("purify", job, "data") == f"{told} --by dao --overwrite"


def test_the_commit_is_that_of_this_project_and_tells_changes(tmp_path: Path) -> None:
    """A copy in an environment inside somebody else's checkout has none."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True)

    def told() -> str | None:
        spec = spec_from_file_location("copied", inside / "provenance.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(module := module_from_spec(spec))
        found: str | None = module.commit()
        return found

    inside = tmp_path / "invertune_plugin"
    inside.mkdir()
    shutil.copy(provenance.__file__, inside / "provenance.py")
    git("init", "-q")
    (tmp_path / "pyproject.toml").write_text('name = "another"\n')
    git("add", ".")
    git("commit", "-qm", "one")
    assert told() is None
    (tmp_path / "pyproject.toml").write_text('name = "invertune-plugin"\n')
    (tmp_path / "results.json").write_text("{}")
    assert re.fullmatch("[0-9a-f]{40}", told() or "")
    (inside / "new.py").write_text("")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", told() or "")
