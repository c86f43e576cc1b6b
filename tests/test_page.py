"""The report's page in a real Chromium: what moves, what is fetched, what runs, what is cut."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.contracts import Row
from lwq.report import html, page, play
from lwq.results import measurements

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
HOSTILE = "<script>document.title='ran'</script>![a](secret.txt)<img src=x onerror=alert(1)>|=1+1"
MODELS = ("m", HOSTILE)
WINDOWS = 16


def rows_of(model, noise):
    """Uniform bits at 2 to 5 bits, LIM and a random order between them; and their windows."""
    for place, (name, bits, factor) in enumerate(
        [("original", 16, 0)]
        + [("uniform", bits, 1) for bits in (2, 3, 4, 5)]
        + [("lim", bits, 0.5) for bits in (2.5, 3.5, 4.5)]
        + [("random(seed=0)", bits, 1.5) for bits in (2.5, 3.5, 4.5)]
    ):
        kl = factor * 10.0 ** (1 - bits) * (1 + noise)
        key = f"{MODELS.index(model):02x}{place:010x}"
        size = int(1e6 * (10 + 10 * bits))
        shared = dict.fromkeys(Row.__dataclass_fields__, "") | {
            "id": key, "plan": key[::-1], "study": "orderings", "model": model,
            "fingerprint": "f", "quantizer": "gptq()", "high": 4, "low": 2, "ordering": name,
            "scorer": name, "allocator": "" if factor == 1 else "topk()",
            "way": "uniform" if factor == 1 else "move", "family": "grid", "moved": 3, "units": 6,
            "seed": 0 if "seed" in name else None, "avg_bits": bits, "true_bits": bits + 0.3,
            "plan_bytes": size - 5, "total_bytes": size, "judge": "wiki/judge 16x9 seed 0 #0",
            "calibration": "c4/calibrate 2x9 seed 0 #0", "dtype": "float32", "n": WINDOWS,
        }  # fmt: skip
        values = {"perplexity": 20 + kl.mean(), "kl": kl.mean(), "top1": 0.9}
        rows = [{**shared, "metric": metric, "value": value} for metric, value in values.items()]
        losses = {"id": key, "window": range(WINDOWS), "tokens": 8, "nll": 3 + kl, "kl": kl}
        bits_of = {f"model.layers.{block}": int(bits) + block % 2 for block in range(6)}
        plan = {"id": key[::-1], "model": model, "fingerprint": "f", "granularity": "block"}
        yield rows, losses, {**plan, "quantizer": "gptq()", "bits": bits_of, "provenance": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of two models, one with a hostile name, beside a file that must not be read."""
    made = tmp_path_factory.mktemp("page")
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, WINDOWS)
    parts = [part for model in MODELS for part in rows_of(model, noise)]
    table = pd.DataFrame([row for rows, _, _ in parts for row in rows])
    table.to_csv(made / measurements.TABLE, index=False)
    windows = pd.concat([pd.DataFrame(losses) for _, losses, _ in parts], ignore_index=True)
    windows = windows.assign(top1=0.9, correct=np.nan, score=np.nan, document=windows["window"])
    windows.to_parquet(made / measurements.WINDOWS)
    (made / "plans.jsonl").write_text("".join(json.dumps(plan) + "\n" for _, _, plan in parts))
    (made / "secret.txt").write_text("a secret")
    page.build(made, made / "out")
    (made / "out" / "secret.txt").write_text("a secret")
    page.build(made, made / "out")
    return made / "out"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="the extra browser is missing")
    if not (CHROMIUM and shutil.which("chromedriver")):
        pytest.skip("no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('user')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, folder):
    """The page, just opened on a desktop."""
    resize(browser, 1200, 900)
    browser.get((folder / "report.html").as_uri())
    return browser


def resize(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def text_of(browser, selector):
    return browser.execute_script(f"return document.querySelector({selector!r}).textContent")


def point_at(browser, selector, event="mouseenter"):
    browser.execute_script(
        "document.querySelector(arguments[0]).dispatchEvent(new Event(arguments[1]))",
        selector,
        event,
    )


def slide_to(browser, mb):
    browser.execute_script(
        "const s = document.getElementById('size'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        mb,
    )
    return text_of(browser, "#play output")


def test_the_slider_shows_the_best_measured_plan_and_uniform_bits_beside_it(opened):
    said = slide_to(opened, 47)
    assert "Best measured plan: LIM, 45.0 MB, 3.80 true bits" in said.replace("3.800", "3.80")
    # between 3 and 4 bits a straight line in log KL, 10 ** -2.5; the plan has half of that
    assert (
        "Uniform bits of the same bytes, on the line: KL 0.0032" in said and "KL 0.0016 [" in said
    )
    strip = [cell.text for cell in find(opened, ".strip tr.chosen td")]
    assert strip == ["3", "4", "3", "4", "3", "4"]
    assert "Best measured plan: uniform 4" in slide_to(opened, 30).replace("2.00", "4")


def test_hover_says_why_and_what_stands_beside(opened):
    slide_to(opened, 47)
    point_at(opened, ".strip tr.chosen td")
    said = text_of(opened, "#tip")
    assert "model.layers.0: 3 bits" in said and "why: lim → topk()" in said
    assert "next smaller plan (35.0 MB" in said and "next larger plan (55.0 MB" in said
    point_at(opened, ".strip tr.chosen td", "mouseleave")
    assert not find(opened, "#tip")[0].is_displayed()
    point_at(opened, "#play svg .hit")
    assert "MB" in text_of(opened, "#tip") and "lwq study orderings" in text_of(opened, "#tip")
    point_at(opened, "a.row")
    assert "repeat it: lwq study orderings --size laptop" in text_of(opened, "#tip")
    point_at(opened, '#contents a[href^="#claims-"]')
    assert text_of(opened, "#tip").startswith("Claims: the paper's")


def test_tables_sort_by_number(opened):
    table = "document.querySelector('#play').previousElementSibling.querySelector('table')"
    column = f"return [...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    opened.execute_script(f"{table}.tHead.rows[0].cells[1].firstElementChild.click()")
    falling = opened.execute_script(column)
    opened.execute_script(f"{table}.tHead.rows[0].cells[1].firstElementChild.click()")
    assert falling == ["35.0 MB", "45.0 MB", "55.0 MB"]  # by KL
    assert opened.execute_script(column) == falling[::-1]
    names = f"[...{table}.tBodies[0].rows][0].cells[0].textContent = '104.0 MB'"
    opened.execute_script(names)
    opened.execute_script(f"{table}.tHead.rows[0].cells[0].firstElementChild.click()")
    assert opened.execute_script(column) == ["104.0 MB", "45.0 MB", "35.0 MB"]


def test_folds_open_and_a_link_into_one_opens_it(opened):
    assert len(find(opened, "details")) >= 2 and not find(opened, "details[open]")
    find(opened, "summary")[0].click()
    assert len(find(opened, "details[open]")) == 1


def test_the_page_is_quiet_and_asks_for_nothing(opened):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].partition(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert "file" in asked and not asked & {"http", "https", "ws", "wss", "ftp"}
    assert opened.get_log("browser") == []


def test_hostile_names_are_text(opened, folder):
    assert opened.title != "ran" and "a secret" not in opened.page_source
    assert HOSTILE.partition("|")[0] in text_of(opened, "#arena")
    source = (folder / "report.html").read_text()
    assert "<script>document" not in source and "<img src=x" not in source
    assert base64.b64encode(b"a secret").decode() not in source
    assert opened.execute_script("return document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert opened.execute_script("return document.scripts.length") == 2
    rows = "".join(path.read_text() for path in (folder / "figures").glob("*.csv"))
    assert not re.search(r"(^|,)=", rows, re.MULTILINE)


def test_no_script_runs_but_the_pages_own(opened, folder):
    """An inline script and a handler in an attribute, as if escaping had failed."""
    source = (folder / "report.html").read_text(encoding="utf-8")
    own = source.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in source
    handlers = "return [...document.querySelectorAll('*')].filter((one) => " + (
        "one.getAttributeNames().some((name) => name.startsWith('on'))).length"
    )
    assert opened.execute_script(handlers) == 0
    act = "document.title='ran'"
    evil = f'<script>{act}</script><img src="data:," onerror="{act}">'
    (folder / "evil.html").write_text(source.replace("<main>", f"<main>{evil}"), encoding="utf-8")
    opened.get((folder / "evil.html").as_uri())
    assert opened.title != "ran" and find(opened, "#play output")
    assert "Best measured plan" in slide_to(opened, 47)
    blocked = [entry["message"] for entry in opened.get_log("browser")]
    assert len(blocked) == 2 and all("Content Security Policy" in one for one in blocked)


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(opened, width, folder):
    resize(opened, width, 844)
    opened.get((folder / "report.html").as_uri())
    widths = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1] <= width
    opened.save_screenshot(str(folder / f"page-{width}.png"))


def test_without_javascript_the_page_has_its_picture(folder):
    source = (folder / "report.html").read_text()
    frontier = source.partition('<div id="frontier">')[2].partition("</div>")[0]
    assert "data:image/png;base64" in frontier and 'download="' in frontier


def test_print_cuts_nothing(opened):
    options = {"printBackground": True, "preferCSSPageSize": True}
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert 1 <= len(re.findall(rb"/Type\s*/Page[^s]", pdf)) <= 25
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    resize(opened, 680, 900)  # A4 without its margins
    cut = opened.execute_script(
        "return [...document.querySelectorAll('table, img')].filter((one) => one.offsetWidth &&"
        " one.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert cut == 0


def test_json_in_the_page_cannot_end_its_element():
    text = play.embedded({"name": "</script><script>x</script>", "more": "<!--"})
    assert "<" not in text and json.loads(text)["name"].startswith("</script>")


def test_a_csv_is_embedded_from_the_reports_folder_only(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "secret.csv").write_text("a secret")
    with pytest.raises(InputError, match="only pictures and their rows"):
        html.page("[x](secret.csv)", tmp_path, "figures", {})


def prose(report: Path) -> int:
    """Words of a report outside tables, pictures and tags."""
    lines = [line for line in report.read_text().splitlines() if not line.startswith(("|", "!["))]
    return len(re.sub(r"<[^>]*>", " ", "\n".join(lines)).split())


def test_the_tracked_report_can_be_read_at_one_sitting():
    assert prose(paths.REPORTS / "report.md") <= 4000
