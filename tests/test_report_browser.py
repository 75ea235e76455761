"""The page in a real Chromium: what a reader does with it, and what may never happen."""

import json
import shutil

import pytest
from fake_board import Fake, tuned_recipe, write_store
from large_board import large_board
from test_report import EFFECTS, outcome

from optbench_llm.report.page import INDEX, make_page, write_page
from optbench_llm.report.sources import read_sources

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"
)
NASTY = "</script><script>window.harmed=1</script><img src=x onerror=window.harmed=1>"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_store(Fake(tuned_recipe(*EFFECTS), outcome), path)
    write_page(path / INDEX, make_page(read_sources([path])))
    return path / INDEX


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end, nothing was asked of any host, and nothing said on the console."""
    told, pages = [], []

    def opened(file, **context):
        page = browser.new_page(**context)
        pages.append(page)
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda r: None if r.url == file.as_uri() else told.append(r.url))
        page.goto(file.as_uri())
        return page

    yield opened
    for page in pages:
        _draw_all(page)
        page.close()
    assert not [what for what in told if not what.startswith(("data:", "blob:"))]


def _draw_all(page):
    """Scroll to every figure, and wait until it is drawn."""
    for figure in page.query_selector_all("figure.plots"):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".plot svg")


def _point_at(page, label):
    """Move the mouse onto the mark of a row in the forest."""
    mark = page.evaluate_handle(
        """label => [...document.querySelectorAll("[id$=-forest] .plot svg .mark-symbol path")]
            .find(path => path.__data__?.datum?.label?.startsWith(label)
                && path.__data__.opacity !== 0)""",
        label,
    ).as_element()
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 1, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def _labels(page):
    return page.eval_on_selector_all(
        "[data-table] tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.label)"
    )


def _sort_by(page, title):
    page.get_by_role("button", name=title, exact=True).click()


def test_every_figure_is_drawn_with_the_rows_in_it(open_page, page_file):
    page = open_page(page_file)
    _draw_all(page)
    text = page.inner_text("[id$=-forest] .plot")
    assert all(name in text for name in EFFECTS)
    assert "adan" in page.inner_text("[id$=-lr-panels] .plot")
    drawn = [figure.get_attribute("id") for figure in page.query_selector_all("figure.plots")]
    assert drawn == [
        f"board-0-{name}"
        for name in ("forest", "lr-panels", "gain-cost", "loss-curves", "published")
    ]


def test_the_table_sorts_by_numbers_both_ways_and_puts_what_is_missing_last(open_page, page_file):
    page = open_page(page_file)
    (source,) = read_sources([page_file.parent])
    lrs = {row.label: row.lr for row in source.board.rows}
    _sort_by(page, "lr")
    up = _labels(page)
    assert [lrs[label] for label in up if lrs[label]] == sorted(filter(None, lrs.values()))
    assert up[-1] == "came"
    _sort_by(page, "lr")
    down = _labels(page)
    assert down[-1] == "came"
    assert [lrs[label] for label in down[:-1]] == sorted(filter(None, lrs.values()), reverse=True)
    assert page.get_attribute("th[data-key=lr]", "aria-sort") == "descending"
    _sort_by(page, "optimizer")
    assert _labels(page) == sorted(_labels(page), key=str.lower)
    _sort_by(page, "difference to adamw")
    differences = {row.label: row.verdict.difference for row in source.board.rows} | {"adamw": 0.0}
    told = [differences[label] for label in _labels(page)]
    assert [d for d in told if d is not None] == sorted(d for d in told if d is not None)
    assert told[-1] is None


def test_the_table_is_searched_and_filtered(open_page, page_file):
    page = open_page(page_file)
    page.fill("[data-search]", "ADAM")
    assert set(_labels(page)) == {"adamw", "adamw A/A"}
    assert "2 of 8 rows" in page.inner_text("[data-count]")
    page.fill("[data-search]", "")
    page.select_option("[data-filter=status]", "diverged")
    assert "came" in _labels(page)
    assert "adamw" not in _labels(page)
    page.select_option("[data-filter=status]", "")
    page.select_option("[data-filter=scope]", "matrix")
    assert _labels(page) == ["muon", "came"]


def test_columns_come_and_go(open_page, page_file):
    page = open_page(page_file)
    head = page.locator("th[data-key=steps]")
    assert not head.is_visible()
    page.click("details.columns summary")
    page.check("[data-column=steps]")
    assert head.is_visible()
    assert page.locator("tbody tr:first-child td:visible", has_text="150").count() == 1
    page.uncheck("[data-column=steps]")
    assert not head.is_visible()


def test_ticked_rows_are_the_coloured_curves(open_page, page_file):
    page = open_page(page_file)
    _draw_all(page)
    key = "[id$=-loss-curves] .key li"
    before = {text.strip() for text in page.locator(key).all_inner_texts()}
    assert "adamw" in before
    ticked = page.locator("[data-chosen]:checked")
    assert ticked.count() == len(before)
    page.uncheck("tr[data-label=adamw] [data-chosen]")
    after = {text.strip() for text in page.locator(key).all_inner_texts()}
    assert after == before - {"adamw"}
    page.get_by_role("button", name="by token").click()
    page.wait_for_timeout(300)
    assert {text.strip() for text in page.locator(key).all_inner_texts()} == after


def test_ticks_made_before_the_curves_are_drawn_hold(open_page, page_file):
    page = open_page(page_file, viewport={"width": 1200, "height": 300})
    ticked = page.eval_on_selector_all("[data-chosen]:checked", "boxes => boxes.length")
    assert ticked > 1
    page.uncheck("tr[data-label=adamw] [data-chosen]")
    page.check("tr[data-label=sgd] [data-chosen]")
    _draw_all(page)
    key = page.locator("[id$=-loss-curves] .key li")
    key.first.wait_for()
    names = {text.strip() for text in key.all_inner_texts()}
    assert "sgd" in names
    assert "adamw" not in names
    assert len(names) == ticked


def test_a_live_page_loads_itself_again_and_keeps_what_was_chosen(open_page, page_file, tmp_path):
    text = make_page(read_sources([page_file.parent]), live=True)
    file = tmp_path / INDEX
    write_page(file, text.replace("RELOAD_MS = 30000", "RELOAD_MS = 1500"))
    page = open_page(file)
    page.fill("[data-search]", "ada")
    _sort_by(page, "optimizer")
    page.check("tr[data-label=adan] [data-chosen]")
    page.evaluate("window.before = true")
    page.wait_for_function("window.before === undefined")
    assert _labels(page) == ["adamw", "adamw A/A", "adan"]
    assert page.input_value("[data-search]") == "ada"
    assert page.is_checked("tr[data-label=adan] [data-chosen]")
    page.evaluate("window.optbenchLive = false")


def test_a_mark_tells_its_row_when_pointed_at(open_page, page_file):
    page = open_page(page_file)
    _draw_all(page)
    _point_at(page, "lion")
    tooltip = page.wait_for_selector("#vg-tooltip-element.visible")
    assert "lion" in tooltip.inner_text()
    assert "worse" in tooltip.inner_text()


def test_dark_is_dark(open_page, page_file):
    """Plots too: their text is the page's."""
    page = open_page(page_file, color_scheme="dark")
    _draw_all(page)
    style = "element => getComputedStyle(element)"
    paper = page.eval_on_selector(
        "body", f"{style}; getComputedStyle(document.body).backgroundColor"
    )
    assert paper == "rgb(20, 23, 26)"
    fills = page.eval_on_selector_all(
        "[id$=-forest] .role-axis-label text", "texts => texts.map(t => t.getAttribute('fill'))"
    )
    assert fills
    assert set(fills) == {"#e6e8eb"}
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "document.querySelector('[id$=-forest] .role-axis-label text').getAttribute('fill')"
        " === '#1b1f24'"
    )


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page, page_file):
    page = open_page(page_file, viewport={"width": 390, "height": 844})
    _draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for plot in page.query_selector_all(".plot"):
        assert plot.evaluate("plot => plot.scrollWidth <= plot.clientWidth + 1")


def test_the_keyboard_reaches_sorting_and_choices(open_page, page_file):
    page = open_page(page_file)
    page.focus("th[data-key=lr] button")
    page.keyboard.press("Enter")
    assert page.get_attribute("th[data-key=lr]", "aria-sort") == "ascending"
    page.focus("[id$=-gain-cost] [data-plot='1']")
    page.keyboard.press("Space")
    assert page.get_attribute("[id$=-gain-cost] [data-plot='1']", "aria-pressed") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, page_file, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")
    page = open_page(page_file, color_scheme=scheme)
    _draw_all(page)
    found = axe.Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not [(one["id"], one["nodes"][0]["html"][:200]) for one in serious]


def test_no_string_of_a_store_does_harm(open_page, tmp_path):
    """A script in every string that a store has: labels, reasons, models, data, machines."""

    def harmful(value):
        if isinstance(value, dict):
            return {key: harmful(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [harmful(inner) for inner in value]
        return f"{value} {NASTY}" if isinstance(value, str) and value not in KEPT else value

    board = Fake(tuned_recipe(*EFFECTS), outcome).board()
    values = harmful(json.loads(board.to_json()))
    baseline = next(row for row in values["rows"] if row["label"].startswith("adamw <"))
    values["baseline"] = baseline["label"]
    (tmp_path / "leaderboard-tuned.json").write_text(json.dumps(values))
    write_page(tmp_path / INDEX, make_page(read_sources([tmp_path])))
    page = open_page(tmp_path / INDEX, viewport={"width": 390, "height": 844})
    _draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    _point_at(page, "lion")
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert page.evaluate("window.harmed") is None
    assert NASTY in page.inner_text("tbody tr:first-child th")
    assert NASTY in page.inner_text("ul.failures")


#: What a reader of the table takes for a choice of its own words.
KEPT = {
    "done",
    "diverged",
    "tuned",
    "test_loss",
    "train_loss",
    "lower",
    "upper",
    "at most",
    "at least",
}


@pytest.mark.slow  # writes ten thousand trials
def test_a_large_store_opens_and_weighs_under_five_megabytes(open_page, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    fake = large_board(200)
    assert len(fake.results) > 10_000
    write_store(fake, tmp_path)
    text = make_page(read_sources([tmp_path]))
    assert len(text.encode()) < 5e6
    write_page(tmp_path / INDEX, text)
    page = open_page(tmp_path / INDEX)
    page.wait_for_selector("[id$=-forest] .plot svg")
    assert len(_labels(page)) == 201
