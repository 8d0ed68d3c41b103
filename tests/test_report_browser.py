"""The report of a grid in a real browser: it renders, sorts, filters, opens evidence, fits a phone.

Screenshots go to ``runs/screenshots/``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from grid_store import small_store

from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid_report.contents import read_contents
from invertune_plugin.benchmark.grid_report.page import render_grid

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = Path(__file__).parent.parent / "runs" / "screenshots"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 360, "height": 780}, "color_scheme": "dark", "has_touch": True}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found: apt install it")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page whose store tries to run scripts wherever it can put a text."""
    folder = tmp_path_factory.mktemp("page")
    contents = read_contents(Store.open(small_store(folder / "store", HOSTILE), create=False))
    (folder / "report.html").write_text(render_grid("small", contents).html)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, chromium: Any, address: str) -> Iterator[Any]:
    """The page at two sizes; whatever the browser complains of fails the test."""
    context = chromium.new_context(offline=True, **request.param)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda said: complaints.append(said.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("request", lambda sent: complaints.append(sent.url) if asks(sent.url) else None)
    opened.goto(address)
    yield opened
    context.close()
    assert complaints == []


def asks(url: str) -> bool:
    return not url.startswith(("data:", "file:"))


def column(page: Any, name: str) -> list[str]:
    """Numbers of a column of the first heat table, top to bottom, as they are shown."""
    at = page.locator("table.heat").first.locator("thead th").all_inner_texts()
    index = [text.strip().split(" ")[0] for text in at].index(name) + 1
    cells = page.locator(f"table.heat >> nth=0 >> css=tbody tr td:nth-child({index}) b:visible")
    return list(cells.all_inner_texts())


def test_it_fits_and_is_photographed(page: Any, request: pytest.FixtureRequest) -> None:
    assert page.evaluate(OVERFLOW) == 0
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = request.node.callspec.id
    page.screenshot(path=SCREENSHOTS / f"grid-{name}.png", full_page=True)
    page.locator("td.place a").nth(10).click()
    page.locator("#dialog").wait_for()
    assert page.evaluate(OVERFLOW) == 0
    page.screenshot(path=SCREENSHOTS / f"evidence-{name}.png")


def test_columns_sort(page: Any) -> None:
    before = column(page, "par")
    button = page.locator("table.heat").first.get_by_role("button", name="par")
    button.click()
    assert column(page, "par") == sorted(before, key=float)
    assert page.locator("table.heat").first.locator('th[aria-sort="ascending"]').count() == 1
    button.click()
    assert column(page, "par") == sorted(before, key=float, reverse=True)


def test_another_measure_is_shown_and_keeps_the_order(page: Any) -> None:
    asr = column(page, "fine_tuning")
    page.locator("table.heat").first.get_by_role("button", name="fine_tuning").click()
    page.get_by_role("radio", name="CA", exact=True).check()
    shown = column(page, "fine_tuning")
    assert shown != sorted(asr, key=float)
    assert shown == sorted(shown, key=float)
    assert all(90 < float(value) < 100 for value in shown)


def test_a_filter_narrows_rows_columns_and_cells(page: Any) -> None:
    page.locator("#filter").fill("badnets defense=par")
    assert page.locator("table.heat tbody tr:visible th").all_inner_texts() == ["badnets"] * 2
    assert page.locator("#runs tbody tr:visible").count() == 6
    assert page.locator("#count").inner_text() == "6 of 124 cells"
    page.locator("#filter").fill("outcome=failed")
    assert page.locator("table.heat tbody tr:visible th").all_inner_texts() == ["blended"] * 2
    page.locator("#filter").fill("nothing-like-this")
    assert page.locator("table.heat:visible").count() == 0
    page.locator("#filter").fill("")
    assert page.locator("table.heat tbody tr:visible").count() == 8


def test_a_cell_opens_its_evidence_and_the_keyboard_closes_it(page: Any) -> None:
    cell = page.locator('td.place a[href$="badnets/inver_tune"]').first
    cell.focus()
    if page.locator("#tip").is_visible():
        assert "mean over 3 seeds, n = 1800 images each" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    dialog = page.locator("#dialog")
    dialog.wait_for()
    assert dialog.locator("h2").inner_text() == "badnets × inver_tune"
    numbers = dialog.locator("table").inner_text()
    assert "n = 1,800" in numbers
    assert "ASR before the defence" in numbers
    captions = dialog.locator(".strips figcaption").all_inner_texts()[:4]
    assert captions[0] == "Test images as they are"
    assert captions[3].startswith("Inverted trigger")
    loaded = "image => image.complete && image.naturalWidth === 128"
    assert all(image.evaluate(loaded) for image in dialog.locator(".strips img").all())
    assert dialog.locator("polyline").count() == 3 * 2
    dialog.get_by_text("Log, last lines").first.click()
    assert "step 59 of 59" in dialog.locator("details[open] pre").inner_text()
    assert "Doubt: only 12 images" in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.wait_for_url(lambda url: "#" not in url)


def test_a_link_to_a_cell_opens_it_with_its_failure(page: Any, address: str) -> None:
    page.goto(f"{address}#demo_rn/demo/300/blended/par")
    page.reload()
    dialog = page.locator("#dialog")
    dialog.wait_for()
    assert f"RuntimeError: the loss is nan{HOSTILE}" in dialog.inner_text()
    assert dialog.locator("summary", has_text="Traceback").count() == 1


def test_texts_of_the_store_stay_texts(page: Any, address: str) -> None:
    page.goto(f"{address}#demo_rn/demo/300/{quote('mine' + HOSTILE, safe='')}/rvpt")
    page.reload()
    page.locator("#dialog").wait_for()
    assert page.locator("#dialog h2").inner_text() == f"mine{HOSTILE} × rvpt"
    assert page.locator("img[src=x]").count() == 0
