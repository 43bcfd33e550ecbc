"""The report of the demo, as a browser shows it. `make test-browser` runs this; it fails where there is no Chromium."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from kaggle_hw4.rehearsal import demo

# Two boxes of text in one picture may touch; this share of the smaller one may be covered.
_COVERED = 0.25
_OF_A_PICTURE = """svg => {
  const box = (element) => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  return { svg: box(svg), texts: [...svg.querySelectorAll("text")].map((t) => [t.textContent, ...box(t)]) };
}"""


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, smaller, and the report at its end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SPEAKERS": 12, "UTTERANCES": 10, "FOLDS": 2, "STEPS": 25}.items():
            patch.setattr(demo, name, value)
        root = tmp_path_factory.mktemp("demo")
        assert demo.main(root) == 0
    return root / "report.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    assert found, "no chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class Seen:
    """The report in a window; what the console and the network saw of it."""

    def __init__(self, browser: Browser, report: Path, *, width: int = 1280, dark: bool = False) -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())

    def eval(self, script: str) -> Any:
        return self.page.evaluate(script)

    def pixels(self, selector: str) -> np.ndarray:
        """(height, width, 3) of an element."""
        picture = Image.open(io.BytesIO(self.page.locator(selector).screenshot()))
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(params=["light", "dark"])
def seen(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Seen]:
    seen = Seen(browser, report, dark=request.param == "dark")
    yield seen
    seen.page.close()


def test_nothing_is_said_on_the_console_and_nothing_is_asked_of_the_network(seen: Seen) -> None:
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in seen.requests) == 1


def test_every_picture_is_there_and_not_empty(seen: Seen) -> None:
    keys = seen.eval("[...document.querySelectorAll('figure')].map((figure) => figure.id)")
    assert len(keys) == len(set(keys)) >= 14
    for key in keys:
        pixels = seen.pixels(f"#{key} svg")
        assert min(pixels.shape[:2]) > 100, key
        colours = np.unique(pixels.reshape(-1, 3), axis=0)
        assert len(colours) > 20, key
        corner = pixels[0, 0].astype(int)
        drawn = (np.abs(pixels.astype(int) - corner).sum(2) > 60).mean()
        assert drawn > 0.01, key


def test_no_text_of_a_picture_is_cut_or_covered(browser: Browser, report: Path) -> None:
    for width in (1280, 360):
        seen = Seen(browser, report, width=width)
        for figure in seen.page.locator("figure").all():
            found = figure.locator("svg").evaluate(_OF_A_PICTURE)
            left, top, right, bottom = found["svg"]
            texts = [text for text in found["texts"] if text[0]]
            assert texts
            for name, x0, y0, x1, y1 in texts:
                assert left - 1 <= x0 < x1 <= right + 1, (name, width)
                assert top - 1 <= y0 < y1 <= bottom + 1, (name, width)
            for i, (name, *a) in enumerate(texts):
                for other, *b in texts[:i]:
                    share = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
                    assert share <= _COVERED * smaller, (figure.get_attribute("id"), name, other, width)
        seen.page.close()


def test_dark_and_light_are_those_of_the_system(browser: Browser, report: Path) -> None:
    levels = {}
    for dark in (False, True):
        seen = Seen(browser, report, dark=dark)
        read = "getComputedStyle(document.body)"
        page, ink = (seen.eval(f"{read}.{what}.match(/\\d+/g).map(Number)") for what in ("backgroundColor", "color"))
        levels[dark] = float(np.mean(page)), float(np.mean(ink))
        card = seen.pixels("figure svg")[0, 0].mean()
        assert abs(card - levels[dark][0]) < 40
        seen.page.close()
    assert levels[False][0] > 200 > 80 > levels[False][1]
    assert levels[True][0] < 80 < 200 < levels[True][1]


def test_links_lead_to_where_they_say(seen: Seen) -> None:
    links = seen.eval("[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))")
    assert len(links) > 8
    for link in links:
        assert link.startswith("#"), link
        assert seen.eval(f"document.querySelectorAll('{link}').length") == 1, link
    seen.page.click("nav a[href='#provenance']")
    assert seen.eval("location.hash") == "#provenance"
    assert 0 <= seen.eval("document.querySelector('#provenance').getBoundingClientRect().top") < 900


def test_tables_sort_by_their_buttons_and_say_so(seen: Seen) -> None:
    tables = seen.page.locator("table.sortable").all()
    assert len(tables) == 3
    speakers = tables[-1]

    def cells(table: Any, place: int) -> list[str]:
        row = f"row.cells[{place}].dataset.value ?? row.cells[{place}].textContent"
        return list(table.evaluate(f"table => [...table.tBodies[0].rows].map((row) => {row})"))

    def sorted_by(table: Any) -> list[str]:
        return list(
            table.evaluate("t => [...t.tHead.rows[0].cells].map((cell) => cell.getAttribute('aria-sort') ?? '')")
        )

    assert sorted_by(speakers)[1] == "ascending"
    worst_first = [float(value) for value in cells(speakers, 1)]
    assert worst_first == sorted(worst_first)
    assert len(set(worst_first)) > 1
    button = speakers.locator("thead button").nth(1)
    button.click()
    assert sorted_by(speakers) == ["", "descending", *[""] * 5]
    assert [float(value) for value in cells(speakers, 1)] == sorted(worst_first, reverse=True)
    speakers.locator("thead button").first.focus()
    seen.page.keyboard.press("Enter")  # without a mouse
    assert sorted_by(speakers) == ["ascending", *[""] * 6]
    names = cells(speakers, 0)
    assert names == sorted(names)
    times = speakers.locator("thead button").nth(5)
    times.click()
    values = cells(speakers, 5)
    given = [float(value) for value in values if value]
    assert given == sorted(given, reverse=True)
    assert values[len(given) :] == [""] * (len(values) - len(given))


def test_a_phone_scrolls_in_one_direction_only(browser: Browser, report: Path) -> None:
    seen = Seen(browser, report, width=360)
    assert seen.eval("document.documentElement.scrollWidth") == 360
    sizes = seen.eval(
        "[...document.querySelectorAll('svg text')].map((t) => parseFloat(getComputedStyle(t).fontSize) * "
        "t.getScreenCTM().a).filter((size) => size > 0)"
    )
    assert min(sizes) > 7
    seen.page.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(seen: Seen) -> None:
    seen.page.keyboard.press("Tab")
    assert seen.eval("document.activeElement.className") == "skip"
    wanted = seen.eval("document.querySelectorAll('a, button, [tabindex=\"0\"]').length")
    reached = 0
    for _ in range(wanted):
        outline = seen.eval("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        reached += seen.eval("document.activeElement !== document.body")
        seen.page.keyboard.press("Tab")
    assert reached == wanted
