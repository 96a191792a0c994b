"""Takes the screenshots of docs/web.md: python tests/web/screenshots.py --weights output/san/model_final.pth"""

from __future__ import annotations

import argparse
import functools
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import twostage  # noqa: E402
from web.conftest import start_chromium  # noqa: E402
from web.test_browser import choose, give, open_at, until  # noqa: E402

SYSTEMS = ("toybox/san", "toybox/maskclip")
# Few enough for small files.
COLORS = 128


def main() -> None:
    """Wide with two systems side by side, narrow with one; light and dark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="of toybox/san")
    args = parser.parse_args()
    from twostage.web.examples import toybox_examples
    from twostage.web.page import build_page, open_page
    from twostage.web.requests import Desk
    from twostage.web.served import Served

    folder = Path(tempfile.mkdtemp())
    path, words = toybox_examples(folder)[1]
    loads = (args.weights, None)
    desk = Desk(
        [Served(n, functools.partial(twostage.load, n, weights=w)) for n, w in zip(SYSTEMS, loads, strict=True)]
    )
    page = build_page(desk)
    address = open_page(page, host="127.0.0.1", port=0, block=False)
    browser = start_chromium(folder)
    for width, height in ((1280, 1000), (390, 1700)):
        for theme in ("light", "dark"):
            open_at(browser, address, width=width, theme=theme, height=height)
            give(browser, path, words)
            if width > 1000:
                choose(browser, "Compare with", SYSTEMS[1])
                until(
                    lambda: browser.find_elements("css selector", "#ts-second .ts-view[data-painted]"), "second answer"
                )
            browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
            shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            target = ROOT / "docs" / f"web-{width}-{theme}.png"
            shot.quantize(COLORS).save(target, optimize=True)
            print(target, target.stat().st_size)
    browser.quit()
    page.close(verbose=False)
    desk.close()


if __name__ == "__main__":
    main()
