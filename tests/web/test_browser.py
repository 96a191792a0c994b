"""The page in a real Chromium: from upload to download, by mouse and by keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twostage
from web.conftest import BROKEN, DENSE, MASKS

# All of them together; a browser has to start.
pytestmark = pytest.mark.slow

Browser = Any
WAIT = 120.0
LAYERS = "return document.querySelectorAll('.ts-view[data-painted]').length"


def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` returns once that is true."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except Exception as error:  # an element that the page has just replaced
            what = f"{what} ({type(error).__name__})"
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {WAIT:.0f} s")


def css(browser: Browser, selector: str) -> Any:
    return until(lambda: browser.find_elements("css selector", selector), selector)[0]


def open_at(browser: Browser, address: str, *, width: int = 1280, theme: str = "light", height: int = 1400) -> None:
    # Narrower windows than 500 pixels only this way.
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(f"{address}?__theme={theme}")
    css(browser, "#ts-picture input[type=file]")


def give(browser: Browser, picture: str | Path, words: str) -> None:
    """Upload, write, press Enter, and wait for the answer."""
    browser.find_element("css selector", "#ts-picture input[type=file]").send_keys(str(picture))
    until(lambda: browser.find_elements("css selector", "#ts-picture img"), "preview")
    ask(browser, words)


def ask(browser: Browser, words: str) -> None:
    """Other words for the same picture."""
    before = times(browser)
    field = browser.find_element("css selector", "#ts-words textarea, #ts-words input")
    field.send_keys("\ue009a", "\ue000", words, "\ue007")  # Control+A; Enter at the end
    until(lambda: times(browser) != before, "answer")
    until(lambda: browser.execute_script(LAYERS), "painted answer")


def times(browser: Browser) -> str:
    found = browser.find_elements("css selector", "#ts-first .ts-times")
    return found[0].text if found else ""


def pixels(browser: Browser, at: str = "#ts-first") -> np.ndarray:
    """RGBA `[H, W, 4]` of what is painted over the picture."""
    script = (
        "const c = document.querySelector(arguments[0] + ' canvas');"
        "return [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    height, width, *values = browser.execute_script(script, at)
    return np.array(values, np.uint8).reshape(height, width, 4)


def rows(browser: Browser, at: str = "#ts-first") -> dict[str, str]:
    """Words and their shares, as the table shows them."""
    found = browser.find_elements("css selector", f"{at} .ts-areas tbody tr")
    cells = ([cell.text.strip() for cell in row.find_elements("css selector", "td")] for row in found)
    return {row[0]: row[1] for row in cells}


def color_of(browser: Browser, number: int) -> tuple[int, ...]:
    row = browser.find_element("css selector", f"#ts-first tr[data-number='{number}']")
    return tuple(bytes.fromhex(row.get_attribute("data-color")))


def test_from_upload_to_download(
    browser: Browser, address: str, examples: list[list[str]], downloads: Path, tmp_path: Path
) -> None:
    # A file that no other test has shown to the page.
    path, words = tmp_path / "own.png", examples[0][1]
    Image.open(examples[0][0]).save(path, compress_level=1)
    names = words.split(", ")
    direct = twostage.load(DENSE, device="cpu")(path, names)
    open_at(browser, address)
    give(browser, path, words)
    shares = {**direct.areas(), "none of the words": float((direct.labels < 0).mean())}
    assert {n: s for n, s in rows(browser).items() if s != "0.0 %"} == {
        name: f"{100 * share:.1f} %" for name, share in shares.items() if f"{100 * share:.1f}" != "0.0"
    }
    painted = pixels(browser)
    assert painted.shape[:2] == direct.labels.shape
    assert (painted[direct.labels < 0][:, 3] == 0).all()
    for index in np.unique(direct.labels[direct.labels >= 0]):
        assert {tuple(p) for p in painted[direct.labels == index]} == {(*color_of(browser, index + 1), 255)}

    # Other words: the picture is not looked at again.
    assert "picture kept" not in times(browser)
    ask(browser, ", ".join(names[:2]))
    assert times(browser).startswith("picture kept, words ")
    assert "other words competed" in browser.find_element("css selector", "#ts-first summary").text

    css(browser, "#ts-collect").click()
    until(lambda: len(browser.find_elements("css selector", "#ts-files a[download]")) == 3, "files")
    for link in browser.find_elements("css selector", "#ts-files a[download]"):
        browser.execute_script("arguments[0].click()", link)
    saved = {"segmentation_overlay.png", "segmentation_labels.png", "segmentation_coco.json"}
    until(lambda: {p.name for p in downloads.iterdir()} >= saved, f"downloads in {downloads}")
    fewer = twostage.load(DENSE, device="cpu")(path, names[:2])
    with Image.open(downloads / "segmentation_labels.png") as image:
        labels = np.array(image).astype(int)
    assert np.array_equal(np.where(fewer.labels < 0, labels.max(), fewer.labels), labels)
    assert json.loads((downloads / "segmentation_coco.json").read_text())["annotations"] == json.loads(
        json.dumps(fewer.to_coco()["annotations"])
    )


def test_toggles_opacity_and_the_word_under_the_pointer(
    browser: Browser, address: str, examples: list[list[str]]
) -> None:
    path, words = examples[1]
    open_at(browser, address)
    give(browser, path, words)
    painted = pixels(browser)
    first = browser.find_element("css selector", "#ts-first tr[data-number] input")
    number = int(browser.execute_script("return arguments[0].closest('tr').dataset.number", first))
    where = (painted[..., :3] == color_of(browser, number)).all(-1)
    # By keyboard: the focus shows one word alone, the space bar hides it.
    browser.execute_script("arguments[0].focus()", first)
    alone = pixels(browser)
    assert (alone[where][:, 3] == 255).all() and (alone[~where & (painted[..., 3] > 0)][:, 3] == 70).all()
    first.send_keys(" ")
    assert (pixels(browser)[where][:, 3] == 0).all()
    first.send_keys(" ")
    script = (
        "const r = arguments[0]; r.value = 20; r.dispatchEvent(new Event('input', {bubbles: true}));"
        "return getComputedStyle(document.querySelector('#ts-first canvas')).opacity"
    )
    assert (
        float(browser.execute_script(script, browser.find_element("css selector", "#ts-first .ts-opacity input")))
        == 0.2
    )
    y, x = (int(v[len(v) // 2]) for v in np.nonzero(where))
    hover = (
        "const c = document.querySelector('#ts-first canvas'), b = c.getBoundingClientRect();"
        "c.dispatchEvent(new PointerEvent('pointermove', {bubbles: true,"
        "clientX: b.left + (arguments[0] + 0.5) * b.width / c.width,"
        "clientY: b.top + (arguments[1] + 0.5) * b.height / c.height}));"
        "return document.querySelector('#ts-first .ts-tip').textContent"
    )
    name = browser.find_element("css selector", f"#ts-first tr[data-number='{number}'] label").text.strip()
    assert browser.execute_script(hover, x, y).strip() == name


def choose(browser: Browser, label: str, option: str) -> None:
    """An entry of a dropdown, by keyboard."""
    field = browser.find_element("css selector", f"input[aria-label='{label}']")
    field.click()
    field.send_keys("\ue009a", "\ue000", option, "\ue007")


def test_two_systems_side_by_side(browser: Browser, address: str, examples: list[list[str]]) -> None:
    open_at(browser, address)
    give(browser, examples[0][0], examples[0][1])
    choose(browser, "Compare with", MASKS)
    until(lambda: browser.execute_script(LAYERS) == 2, "second answer")
    left, right = (
        browser.find_element("css selector", f"{at} figcaption b").text for at in ("#ts-first", "#ts-second")
    )
    assert (left, right) == (DENSE, MASKS)
    assert not np.array_equal(pixels(browser), pixels(browser, "#ts-second"))


def message(browser: Browser) -> str:
    script = "return [...document.querySelectorAll('.toast-body')].map((toast) => toast.textContent.trim()).join(' ')"
    return str(until(lambda: browser.execute_script(script), "message"))


def test_mistakes_are_messages(browser: Browser, address: str, examples: list[list[str]], tmp_path: Path) -> None:
    open_at(browser, address)
    give(browser, examples[0][0], examples[0][1])
    field = browser.find_element("css selector", "#ts-words textarea, #ts-words input")
    field.send_keys("\ue009a", "\ue000", "cat, cat", "\ue007")
    assert "'cat'" in message(browser)
    open_at(browser, address)
    (tmp_path / "no.png").write_bytes(b"no picture")
    browser.find_element("css selector", "#ts-words textarea, #ts-words input").send_keys("cat, dog")
    browser.find_element("css selector", "#ts-picture input[type=file]").send_keys(str(tmp_path / "no.png"))
    assert "can't be read" in message(browser)
    open_at(browser, address)
    give(browser, examples[0][0], examples[0][1])
    choose(browser, "System", BROKEN)
    told = message(browser)
    assert "the log of the server says why" in told and "secret" not in told
    assert "Traceback" not in browser.page_source and "/secret" not in browser.page_source


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits(browser: Browser, address: str, examples: list[list[str]], width: int, theme: str) -> None:
    """Nothing sticks out sideways, and text stands out from what is behind it (WCAG 2.1, 1.4.3)."""
    open_at(browser, address, width=width, theme=theme)
    give(browser, examples[0][0], examples[0][1])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in ("#ts-first .ts-areas label", "#ts-first figcaption b", "#ts-first .ts-times"):
        assert browser.execute_script(CONTRAST, browser.find_element("css selector", selector)) >= 4.5, selector
    box = browser.find_element("css selector", "#ts-first canvas").rect
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 250


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function light(color) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
let behind = arguments[0];
const isClear = (element) => /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(element).backgroundColor);
while (behind && isClear(behind)) behind = behind.parentElement;
const a = light(getComputedStyle(arguments[0]).color);
const b = behind ? light(getComputedStyle(behind).backgroundColor) : 1;
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""
