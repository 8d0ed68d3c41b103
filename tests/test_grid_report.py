"""``invertune report``: what a page says of a store, and what it does not let a store do."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from grid_store import ORIGIN, SyntheticStore, full_store, share, small_store

from invertune_plugin import cli
from invertune_plugin.benchmark.experiment.victims import shipped_victims
from invertune_plugin.benchmark.grid.claims import Claim
from invertune_plugin.benchmark.grid.rows import rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid_report import cards
from invertune_plugin.benchmark.grid_report import page as page_module
from invertune_plugin.benchmark.grid_report.cards import shipped_about
from invertune_plugin.benchmark.grid_report.contents import Contents, read_contents
from invertune_plugin.benchmark.grid_report.evidence import evidence_of
from invertune_plugin.benchmark.grid_report.measures import in_reading_order, measure_of
from invertune_plugin.benchmark.grid_report.page import GridPage, render_grid
from invertune_plugin.benchmark.grid_report.shares import Share, mean_over_seeds, shares_in
from invertune_plugin.benchmark.grid_report.standings import complete, standings
from invertune_plugin.benchmark.grid_report.tables import GridTable, tables_of
from invertune_plugin.benchmark.grid_report.trouble import doubts, troubles
from invertune_plugin.benchmark.report.html import script, script_hash
from invertune_plugin.defenses.baselines import BASELINES
from invertune_plugin.files import write_text

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return contents(small_store(tmp_path_factory.mktemp("small") / "store"))


@pytest.fixture(scope="module")
def page(small: Contents) -> GridPage:
    return render_grid("small", small)


def contents(root: Path) -> Contents:
    return read_contents(Store.open(root, create=False))


def table_of(root: Path, **more: Any) -> GridTable:
    (table,) = tables_of(contents(root), **more)
    return table


def test_shares_are_numbers_with_bounds() -> None:
    record = share("asr", 0.5) | {"ca": 0.9, "ca_low": 0.8, "ca_high": "x", "ca_n": 4}
    record |= share("odd", 2.0) | {"seconds": 3.0}
    assert shares_in(record) == {"asr": Share(0.5, 0.49, 0.51, 1800)}


def test_one_seed_keeps_its_interval_and_several_are_resampled() -> None:
    one = Share(0.2, 0.1, 0.3, 50)
    mean = mean_over_seeds([one])
    assert (mean.value, mean.low, mean.high, mean.ns) == (0.2, 0.1, 0.3, (50,))
    three = mean_over_seeds([replace(one, value=v) for v in (0.1, 0.2, 0.6)])
    assert three.value == pytest.approx(0.3)
    assert (three.low, three.high) == (pytest.approx(0.1), pytest.approx(0.6)), "1 of 27 is > 2.5 %"
    many = mean_over_seeds([replace(one, value=v) for v in [0.0, 1.0] * 50])
    assert many.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)


@pytest.mark.parametrize(
    ("name", "title", "better", "before"),
    [
        ("asr_after", "ASR", "lower", "asr_before"),
        ("ca", "CA", "higher", "ca_before"),
        ("ca_rebound_second", "CA after rebound, second test set", "higher", "ca_before_second"),
        ("t2i_r5_after", "Text-to-image R@5", "higher", "t2i_r5_before"),
        (
            "retrieval_asr1_clean",
            "Retrieval ASR@1 of the clean model",
            "lower",
            "retrieval_asr1_before",
        ),
        ("fpr", "FPR", "lower", "fpr_before"),
        ("asr_after_trigger2", "ASR, trigger 2", "lower", "asr_before_trigger2"),
        (
            "asr_rebound_second_trigger1",
            "ASR after rebound, second test set, trigger 1",
            "lower",
            "asr_before_second_trigger1",
        ),
        ("recall_at_5", "recall_at_5", "", ""),
    ],
)
def test_fields_have_titles(name: str, title: str, better: str, before: str) -> None:
    measure = measure_of(name)
    assert (measure.title, measure.better, measure.before) == (title, better, before)


def test_measures_are_in_reading_order() -> None:
    names = [
        "ca_after_second",
        "mine",
        "tpr",
        "ca_after",
        "i2t_r5_after",
        "asr_rebound",
        "asr_after",
    ]
    names += ["i2t_r1_after"]
    order = [measure.name for measure in in_reading_order(names)]
    told = ["asr_after", "asr_rebound", "ca_after", "i2t_r1_after", "i2t_r5_after", "tpr", "mine"]
    assert order == [*told, "ca_after_second"]


def test_a_table_has_rows_columns_seeds_and_what_was_before(small: Contents) -> None:
    demo, real = tables_of(small)
    assert (demo.title, real.title) == (
        "demo_rn, demo, 300 benign steps",
        "real_rn, real, 300 benign steps",
    )
    assert demo.attacks == ("none", "badnets", "blended", "mine")
    assert demo.defenses == ("none", "clean_clip", "fine_tuning", "inver_tune", "par", "rvpt")
    assert demo.seeds == ("0", "1", "2")
    assert demo.before["badnets"].means["asr_before"].value == pytest.approx(0.97)
    assert demo.before["badnets"].means["asr_before"].ns == (1800, 1800, 1800)
    assert demo.positions["badnets", "par"].means["asr_after"].value == pytest.approx(0.2, abs=0.03)


def test_outcomes_are_counted_by_position(small: Contents) -> None:
    demo, real = tables_of(small)
    assert demo.positions["none", "inver_tune"].remarks == ["rejected"]
    assert demo.positions["blended", "par"].remarks == ["failed 1/3"]
    assert demo.positions["badnets", "par"].remarks == ["⚠ doubtful"]
    assert demo.positions["mine", "rvpt"].remarks == ["impossible"]
    assert real.positions["mine", "clean_clip"].not_run == ("1", "2")
    assert "outcome=failed outcome=" not in demo.positions["badnets", "par"].words
    assert demo.positions["blended", "par"].words == (
        "attack=blended defense=par tower=demo_rn base=demo rebound=300 outcome=ok outcome=failed "
        "seed=0 seed=1 seed=2"
    )
    outcomes = [demo.positions["blended", "par"].words_of(seed).split()[-2:] for seed in "012"]
    assert sorted(outcomes)[0][0] == "outcome=failed"
    assert {tuple(words) for words in outcomes} >= {("outcome=ok", "seed=0")}


def test_troubles_are_grouped_by_reason(small: Contents) -> None:
    found = {(t.outcome, t.reason): t.count for t in troubles(tables_of(small))}
    assert found == {
        ("failed", "RuntimeError: the loss is nan"): 2,
        ("impossible", "It needs a vision transformer."): 12,
        ("not run", "The store has nothing on these cells yet."): 8,
    }
    (doubt,) = doubts(tables_of(small))
    assert (doubt.reason, doubt.count) == ("only 12 images", 9)


def test_the_newest_claim_counts_and_mixed_settings_are_doubted(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    about = made.about_repair("demo", "badnets", "par", 0, "")
    newer = made.about_repair("demo", "badnets", "par", 0, "")
    other = made.about_repair("demo", "badnets", "par", 1, "")
    made.save(newer, share("asr_after", 0.1))
    made.save(replace(other, settings={"options": {"tau": 1.0}}), share("asr_after", 0.3))
    made.mark(about, "failed", "old", origin=ORIGIN | {"created": "2025-01-01T00:00:00+00:00"})
    found = contents(tmp_path)
    assert found.older == 1
    position = table_of(tmp_path).positions["badnets", "par"]
    assert position.states == {"ok": 2}
    assert position.means["asr_after"].value == pytest.approx(0.2)
    assert position.remarks == ["⚠ doubtful"]
    (doubt,) = doubts(tables_of(found))
    assert "different settings" in doubt.reason


def test_cells_of_a_planned_grid_that_are_not_there_were_not_run(tmp_path: Path) -> None:
    full_store(tmp_path, ["demo"], ["badnets"], ["none"], 1)
    names = {"tower": "demo_rn", "base": "demo", "rebound": 300, "seed": 0}
    table = table_of(tmp_path, planned=[names | {"attack": "wanet", "defense": "none"}])
    assert table.positions["wanet", "none"].not_run == ("0",)
    assert table.positions["badnets", "none"].not_run == ()


def test_what_a_cell_says_that_it_cost_counts(tmp_path: Path) -> None:
    """Purifiers of clean pairs have another model before them than the clean one."""
    made = SyntheticStore(tmp_path)
    before = share("ca_before", 0.9) | share("asr_before", 0.01)
    victim = made.save(made.about("victim", {"attack": "none"}, {"attack": "none"}, ()), before)
    about = made.about("repair", {"attack": "none"}, {"defense": "purify"}, (victim,))
    made.save(about, share("asr_after", 0.01) | share("ca_after", 0.95) | {"ca_lost": 0.0})
    about = made.about("repair", {"attack": "a"}, {"defense": "purify"}, ())
    made.save(about, share("asr_after", 0.5) | share("ca_after", 0.95))
    (found,) = standings(table_of(tmp_path))
    assert found.ca_change_clean == 0


def test_a_victims_rebound_is_not_that_of_a_defence(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    before = share("asr_before", 0.99) | share("asr_rebound", 0.9)
    victim = made.save(made.about("victim", {"attack": "a"}, {"attack": "a"}, ()), before)
    about = made.about("repair", {"attack": "a"}, {"defense": "filter"}, (victim,))
    made.save(about, share("asr_after", 0.05))
    table = table_of(tmp_path)
    (position,) = table.positions.values()
    found = evidence_of(contents(tmp_path), [table], 0).positions[position.link]
    assert found["means"].keys() == {"asr_before", "asr_after"}


def test_standings_by_hand(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    before = share("ca_before", 0.9) | share("asr_before", 0.99)
    victims = {}
    for attack in ("none", "a", "b"):
        names = {"attack": attack}
        victims[attack] = made.save(made.about("victim", names, {"attack": attack}, ()), before)

    def put(attack: str, defense: str, asr: float, ca: float, **record: Any) -> None:
        settings = {"defense": defense}
        about = made.about("repair", {"attack": attack}, settings, (victims[attack],))
        made.save(about, share("asr_after", asr) | share("ca_after", ca) | record)

    put("a", "find", 0.1, 0.88, found_target="star")
    put("b", "find", 0.3, 0.90, found_target=None)
    put("none", "find", 0.01, 0.85, false_alarm=True, found_target="ring")
    put("a", "tune", 0.4, 0.92, found_target=None)
    put("none", "tune", 0.02, 0.9)
    table = table_of(tmp_path)
    find, tune = standings(table)
    assert (find.defense, find.attacks, find.worst) == ("find", 2, ("b", 0.3))
    assert find.asr == pytest.approx(0.2)
    assert find.ca_change == pytest.approx(-0.01)
    assert find.ca_change_clean == pytest.approx(-0.05)
    assert find.false_alarms == (1, 1)
    assert (tune.defense, tune.attacks, tune.false_alarms) == ("tune", 1, None)
    assert complete(table, find)
    assert not complete(table, tune)
    html = render_grid("mine", contents(tmp_path)).html
    assert "find leaves the lowest mean ASR over 2 attacks: 20.0%, CA −1.0 points." in html


def test_a_destroyed_model_is_no_result(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    victim = made.victim("demo", "a", 0)
    for defense, asr, ca in (("none", 0.9, 0.96), ("wreck", 0.0, 0.005), ("find", 0.2, 0.95)):
        about = made.about_repair("demo", "a", defense, 0, victim)
        made.save(about, share("asr_after", asr) | share("ca_after", ca))
    html = render_grid("mine", contents(tmp_path)).html
    assert "find leaves the lowest mean ASR over 1 attack: 20.0% (90.0% without defence)" in html
    assert "Lower, at a CA of 10 points less and more: wreck." in html


def test_a_defence_with_a_seed_less_is_not_complete(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    for seed, defenses in enumerate((("find", "tune"), ("find",))):
        victim = made.victim("demo", "a", seed)
        for defense in defenses:
            about = made.about_repair("demo", "a", defense, seed, victim)
            made.save(about, share("asr_after", 0.1))
    table = table_of(tmp_path)
    assert {row.defense: complete(table, row) for row in standings(table)} == {
        "find": True,
        "tune": False,
    }


def test_before_any_defence_is_the_newest_victim(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    for defense, asr, day in (("a_first", 0.2, "1"), ("b_second", 0.8, "2")):
        about = made.about("victim", {"attack": "a", "seed": 0}, {}, ())
        claim = Claim(about, "ok", share("asr_before", asr), origin=ORIGIN | {"created": day})
        made.store.save(claim)
        repaired = made.about_repair("demo", "a", defense, 0, about.key)
        made.save(repaired, share("asr_after", 0.1))
    assert table_of(tmp_path).before["a"].means["asr_before"].value == 0.8


def test_a_measured_cell_that_fails_later_keeps_its_numbers(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    about = made.about_repair("demo", "badnets", "par", 0, "")
    made.save(about, share("asr_after", 0.1))
    made.mark(about, "failed", "disk", origin=ORIGIN | {"created": "2027-01-01T00:00:00+00:00"})
    assert table_of(tmp_path).positions["badnets", "par"].means["asr_after"].value == 0.1
    (row,) = rows_of(Store.open(tmp_path))
    assert (row["outcome"], row["asr_after"]) == ("ok", 0.1)


def test_before_a_defence_in_two_steps_is_the_victim(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    victim = made.save(made.about("victim", {"attack": "a"}, {}, ()), share("asr_before", 0.9))
    about = made.about("repair", {"attack": "a", "defense": "d"}, {}, (victim,))
    repair = made.save(about, share("asr_after", 0.2))
    about = made.about("measurement", {"attack": "a", "defense": "d"}, {}, (repair,))
    made.save(about, share("asr_after", 0.1))
    assert table_of(tmp_path).before["a"].means["asr_before"].value == 0.9


def test_before_any_defence_is_the_victim_of_the_grid_that_is_asked_for(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path)
    wanted = made.about("victim", {"attack": "a"}, {}, ())
    other = made.about("victim", {"attack": "a"}, {"lr": 1}, ())
    for about, asr, day in ((wanted, 0.2, "1"), (other, 0.8, "2")):
        origin = ORIGIN | {"created": day}
        made.store.save(Claim(about, "ok", share("asr_before", asr), origin=origin))
        cell = made.about("repair", {"attack": "a", "defense": about.key}, {}, (about.key,))
        made.save(cell, share("asr_after", 0.1))
    (table,) = tables_of(read_contents(Store.open(tmp_path), {wanted.key}))
    assert table.before["a"].means["asr_before"].value == 0.2


def test_a_defence_with_a_setting_without_default_has_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Config:
        must: int
        rate: float = 0.5

    kind = replace(BASELINES["par"], config=Config)
    monkeypatch.setattr(cards, "BASELINES", {**BASELINES, "mine": kind})
    full_store(tmp_path, ["demo"], ["badnets"], ["mine"], 1)
    (card,) = cards.defense_cards(contents(tmp_path), ["mine"])
    assert json.loads(card.defaults) == {"rate": 0.5}


def test_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    made = SyntheticStore(tmp_path / "store")
    about = made.about_repair("demo", "badnets", "par", 0, "")
    made.mark(about, "failed", "no image: caf\udce9.png")
    page = render_grid("odd", contents(tmp_path / "store"))
    write_text(tmp_path / "page.html", page.html)
    assert "caf\\udce9.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shipped_victims())
def test_every_shipped_attack_says_what_it_is(name: str) -> None:
    assert re.fullmatch(r"[A-Z].{10,}\.", shipped_about(name))


def test_cards_come_from_where_methods_are_described(page: GridPage) -> None:
    assert "A fixed patch in a corner (Gu et al. 2017)." in page.html
    assert "Singh, Croce and Hein 2024 (arXiv 2412.00727)." in page.html
    assert "<b>Needs:</b> clean image-caption pairs." in page.html
    assert page.html.count("This package does not describe it") == 1, "only of the attack mine"


def test_every_defence_has_a_card(tmp_path: Path) -> None:
    full_store(tmp_path, ["demo"], ["badnets"], list(BASELINES), 1)
    html = render_grid("all", contents(tmp_path)).html
    assert "This package does not describe it" not in html
    assert html.count("<b>Needs:</b>") == len(BASELINES)


class Tags(HTMLParser):
    """Counts tags, and collects addresses and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.outside: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action") and not (value or "").startswith("#"):
                self.outside.append(f"{name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_the_page_is_one_file_in_which_a_store_runs_nothing(tmp_path: Path, hostile: str) -> None:
    html = render_grid(f"grid{hostile}", contents(small_store(tmp_path / "s", hostile))).html
    found = Tags()
    found.feed(html)
    assert found.tags["script"] == 2
    assert "img" not in found.tags
    assert found.outside == []
    assert found.handlers == []
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", html)
    assert f"script-src '{script_hash(script('grid.js'))}'" in html


def test_what_is_no_picture_of_the_store_is_not_shown(tmp_path: Path) -> None:
    root = full_store(tmp_path / "store", ["demo"], ["badnets"], ["inver_tune"], 1)
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    store = Store.open(root)
    (claim,) = (c for c in store.claims() if c.about.kind == "repair")
    folder = store.folder(claim.about.key)
    (folder / "text.png").write_text("<svg onload=alert(1)>")
    (folder / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300_000))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    names = (
        "inverted.png",
        "text.png",
        "large.png",
        "link.png",
        "../../../secret.png",
        "gone.png",
        "nul\0.png",
    )
    path = root / "claims" / f"{claim.about.key}.json"
    path.write_text(replace(claim, artefacts=(*names, "curves.json")).to_json())
    (folder / "curves.json").write_text('{"loss": [[1, "x"]]}')
    found = contents(root)
    evidence = evidence_of(found, tables_of(found), room=1_000_000).claims[claim.about.key]
    assert [name for name, _ in evidence["pictures"]] == ["inverted"]
    assert evidence["curves"] == {}


def test_pictures_are_shared_by_content_and_left_out_beyond_the_room(small: Contents) -> None:
    tables = tables_of(small)
    whole = evidence_of(small, tables, room=10_000_000)
    shown = [p for claim in whole.claims.values() for p in claim["pictures"]]
    assert len(whole.pictures) == 4 * 3 * 4, "both tables have the same victims and triggers"
    assert len(shown) == 2 * len(whole.pictures)
    room = sum(map(len, whole.pictures[:10]))
    some = evidence_of(small, tables, room)
    assert sum(map(len, some.pictures)) <= room
    assert len(some.pictures) + len(some.left_out) == len(whole.pictures)
    page = render_grid("small", small, room=room)
    assert f"{page.pictures_left_out} pictures were left out" in page.html


def test_the_fingerprint_is_that_of_the_files(small: Contents, page: GridPage) -> None:
    folders = [small.store.root / name for name in ("claims", "failures")]
    files = [path.read_bytes() for folder in folders for path in sorted(folder.glob("*.json"))]
    assert small.fingerprint == hashlib.sha256(b"".join(files)).hexdigest()
    assert f"fingerprint {small.fingerprint[:16]}" in page.html


def test_a_store_without_grid_cells_has_a_page(tmp_path: Path) -> None:
    Store.open(tmp_path)
    page = render_grid("empty", contents(tmp_path))
    assert page.cells == 0
    assert "The store has no cell with an attack and a defence." in page.html


def test_a_thousand_cells_are_quick_and_small(tmp_path: Path) -> None:
    attacks = ["none", *(f"attack-{i}" for i in range(23))]
    full_store(tmp_path, ["demo", "real"], attacks, list(BASELINES), 3)
    start = time.process_time()
    page = render_grid("large", contents(tmp_path))
    assert page.cells == 1008
    assert page.pictures_left_out == 0
    assert time.process_time() - start < 10
    assert len(page.html.encode()) < 15 * 2**20


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["invertune", "report", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join((said.out + said.err).split())

    return run


def test_the_command(
    report: Any, small: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    code, said = report(small.store.root, "--out", out, "--title", "My grid")
    assert code == 0
    assert "132 cells" in said
    assert '<h1 id="summary">Attacks × defences: My grid</h1>' in out.read_text()
    assert "Pass --overwrite" in report(small.store.root, "--out", out)[1]
    monkeypatch.setattr(page_module, "ROOM", 0)
    code, said = report(small.store.root, "--out", out, "--overwrite")
    assert code == 0
    assert "pictures were left out" in said
    code, said = report(tmp_path / "absent", "--out", tmp_path / "other.html")
    assert code == 2
    assert "Expected a store in" in said


def test_the_command_shows_what_a_grid_has_not_run(
    report: Any, small: Contents, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nrecipes: [demo]\nattacks: [wanet]\ndefenses: {par: {}}\nrebound: 300\n"
    )
    out = tmp_path / "report.html"
    code, said = report(small.store.root, "--out", out, "--grid", tmp_path / "mine.yaml")
    assert code == 0
    assert "133 cells" in said
    assert "attack=wanet defense=par tower=shapes_rn base=demo rebound=300 outcome=not-run" in (
        out.read_text()
    )
