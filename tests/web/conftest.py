"""One page for all tests of the session, served by this process; and a headless Chromium where there is one."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
pytest.importorskip("gradio", reason="the web page needs Gradio: pip install 'twostage[web]'")

import twostage
from twostage.web.examples import toybox_examples
from twostage.web.page import build_page, open_page
from twostage.web.requests import Desk
from twostage.web.served import Served
from web.client import Client

MASKS, DENSE, BROKEN = "toybox/san", "toybox/maskclip", "a broken one"


def fail() -> twostage.Segmenter:
    raise RuntimeError("/secret/path is broken")


@pytest.fixture(scope="session")
def desk() -> Iterator[Desk]:
    """A system with masks (random weights), one without, and one that fails."""
    names = (DENSE, MASKS)
    desk = Desk(
        [
            *(Served(name, functools.partial(twostage.load, name, device="cpu")) for name in names),
            Served(BROKEN, fail),
        ]
    )
    yield desk
    desk.close()


@pytest.fixture(scope="session")
def address(desk: Desk) -> Iterator[str]:
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    page = build_page(desk)
    yield open_page(page, host="127.0.0.1", port=0, block=False)
    page.close(verbose=False)


@pytest.fixture(scope="session")
def client(address: str) -> Client:
    return Client(address)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Rows of a picture's path and words."""
    return toybox_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts what it downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads: Path) -> Iterator[Any]:
    """A headless Chromium under selenium."""
    pytest.importorskip("selenium.webdriver", reason="the browser tests need selenium")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("the browser tests need Debian's chromium and chromium-driver")
    running = start_chromium(downloads)
    yield running
    running.quit()


def start_chromium(downloads: Path) -> Any:
    """A headless Chromium that puts what it downloads into a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(argument)
    # Three files at once are downloaded without a question.
    options.add_experimental_option("prefs", {"profile.default_content_setting_values.automatic_downloads": 1})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    running = webdriver.Chrome(options=options, service=service)
    running.set_page_load_timeout(120)
    running.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    return running
