"""The page as scripts see it: the answers of the Python call, and nothing of this machine in whatever is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.errors import UserError
from twostage.web.available import asked_systems
from twostage.web.limits import parse_words
from twostage.web.requests import Desk, Request
from web.client import AskError, Client
from web.conftest import BROKEN, DENSE, MASKS
from web.load import put_under_load, questions

Example = list[str]


def test_the_answer_is_that_of_the_python_call(client: Client, examples: list[Example]) -> None:
    path, words = examples[0]
    told = client.segment(client.upload(Path(path)), words, DENSE)
    direct = twostage.load(DENSE, device="cpu")(path, words.split(", ")).to_dict()
    assert told["system"] == DENSE and told["words_ms"] > 0
    assert {key: told[key] for key in direct} == direct


def test_a_picture_is_looked_at_once(client: Client, examples: list[Example]) -> None:
    picture = client.upload(Path(examples[1][0]))
    first = client.segment(picture, "sky, sand", DENSE, "nothing")
    second = client.segment(picture, "grass, water, sand", DENSE, "nothing")
    assert first["picture_ms"] > 0 and second["picture_ms"] == 0
    # The same picture under another name, too.
    again = client.segment(client.upload(Path(examples[1][0])), "sky, sand", DENSE, "nothing")
    assert again["picture_ms"] == 0 and again["found"] == first["found"]


def test_what_competes(client: Client, examples: list[Example]) -> None:
    picture, word = client.upload(Path(examples[0][0])), examples[0][1].split(", ")[-1]
    alone = client.segment(picture, word, DENSE, "nothing")
    assert alone["none"] == 0 and alone["others"] == []
    automatic = client.segment(picture, word, DENSE)
    assert 0 < automatic["none"] < 1 and len(automatic["others"]) > 5
    own = client.segment(picture, word, DENSE, "words of mine", "sky, grass")
    assert own["others"] == ["sky", "grass"] and own["none"] > 0


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        ("", (), "give words: names separated by commas"),
        ("cat, cat", (), "twice"),
        ("w, " * 300, (), "300 words; 200 are allowed"),
        ("x" * 6000, (), "6000 letters; 5000 are allowed"),
        ("word " * 400, (), "context|too long|longer"),
        ("cat", ("something",), "not in the list of choices"),
        ("cat", ("words of mine", ""), "give other words"),
        ("cat", ("nothing", "", "dog"), "is to be told apart, but is not among the words"),
        # A list of this machine is no words: neither read nor confirmed to be there.
        ("/etc/passwd", (), ""),
        ("pyproject.toml", (), ""),
    ],
)
def test_wrong_words(client: Client, examples: list[Example], words: str, more: tuple[str, ...], message: str) -> None:
    picture = client.upload(Path(examples[0][0]))
    if not message:
        try:
            assert "root:" not in str(client.segment(picture, words, DENSE, *more))
        except AskError as error:
            assert "does not exist" not in str(error) and "root:" not in str(error)
        return
    with pytest.raises(AskError, match=message):
        client.segment(picture, words, DENSE, *more)


def test_what_scripts_send_in_place_of_text(client: Client, examples: list[Example]) -> None:
    """A list of names, null for nothing; anything else is told, and never made into a word."""
    picture = client.upload(Path(examples[0][0]))
    answer = client.segment(picture, ["grass", ["water", "lake"]], DENSE, "words of mine", ["sky"], None)
    assert (answer["names"], answer["others"]) == (["grass", "water, lake"], ["sky"])
    for words, message in (
        (5, "the words are 5; give names"),
        ([5], "which is no name"),
        ([], "give words"),
        ({}, "are {}"),
    ):
        with pytest.raises(AskError, match=message):
            client.segment(picture, words, DENSE)
    with pytest.raises(AskError, match="give other words"):
        client.segment(picture, "grass", DENSE, "words of mine", None)
    with pytest.raises(AskError, match=r"the words have .* letters"):
        client.segment(picture, ["x" * 3000, "y" * 3000], DENSE)


@pytest.mark.parametrize("what", ["words", "other words"])
def test_words_do_not_tell_which_files_there_are(tmp_path: Path, what: str) -> None:
    (tmp_path / "there.txt").write_text("cat")
    for name in ("there.txt", "nowhere.txt"):
        path = str(tmp_path / name)
        assert parse_words(path, what).names == (path,)
        assert parse_words(f"{path}, cat", what).names == (path, "cat")


def bad_pictures(folder: Path) -> dict[str, bytes]:
    good = folder / "good.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(good)
    huge = folder / "huge.png"
    Image.new("1", (6000, 6000)).save(huge)
    return {
        "text.png": b"hello",
        "empty.png": b"",
        "cut.png": good.read_bytes()[:60],
        "huge.png": huge.read_bytes(),
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    }


def test_bad_pictures_are_messages(client: Client, tmp_path: Path) -> None:
    for name, content in bad_pictures(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AskError, match=r"^the (picture|image) ") as caught:
            client.segment(client.upload(tmp_path / name), "cat, dog", DENSE)
        assert str(tmp_path) not in str(caught.value) and "/tmp" not in str(caught.value), name
    with pytest.raises(AskError, match="give a picture first"):
        client.segment(None, "cat", DENSE)


def test_a_file_that_is_too_large_is_not_even_taken(client: Client, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(os.urandom(21 * 2**20))
    with pytest.raises(Exception, match="413"):
        client.upload(tmp_path / "large.png")


def test_a_failure_says_nothing_of_the_machine(client: Client, examples: list[Example]) -> None:
    with pytest.raises(AskError, match=r"^The system failed at this; the log of the server says why\.$"):
        client.segment(client.upload(Path(examples[0][0])), "cat", BROKEN)
    with pytest.raises(AskError, match="toybox/sam is not in the list of choices"):
        client.segment(client.upload(Path(examples[0][0])), "cat", "toybox/sam")
    with pytest.raises(AskError) as caught:
        client.segment(
            client.upload(Path(examples[0][0])), "<img src=x onerror=alert(1)>; <img src=x onerror=alert(1)>", DENSE
        )
    assert "<img" not in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/hostname", "pyproject.toml", "../../../../etc/passwd"])
def test_no_file_of_the_server_is_readable(client: Client, path: str) -> None:
    for route in ("/gradio_api/file=", "/file=", "/static/", "/assets/", "/gradio_api/file/"):
        answer = client.get(f"{route}{path}")
        assert answer.status_code in (401, 403, 404, 405), (route, answer.status_code)
    with pytest.raises(Exception) as caught:
        client.segment({"path": path, "meta": {"_type": "gradio.FileData"}}, "cat, dog", DENSE)
    assert "root:" not in str(caught.value)


def test_no_address_is_fetched_for_anybody(client: Client, address: str) -> None:
    """A picture given by address would let strangers look at what this machine sees."""
    given = {"path": f"{address}config", "url": f"{address}config", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception) as caught:
        client.segment(given, "cat, dog", DENSE)
    assert "components" not in str(caught.value)


def test_it_listens_on_the_loopback_address(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


def test_objects(desk: Desk, examples: list[Example]) -> None:
    path, words = examples[0]
    things = ", ".join(words.split(", ")[-2:])
    shown = desk.view(Request(picture=path, words=words, system=MASKS, things=things))
    assert 'class="ts-view"' in shown
    files = [Path(file).name for file in desk.files(Request(picture=path, words=words, system=MASKS, things=things))]
    assert "segmentation_panoptic.png" in files and "segmentation_coco.json" in files
    with pytest.raises(twostage.errors.UserError, match="need a system that predicts masks"):
        desk.view(Request(picture=path, words=words, system=DENSE, things=things))


def test_words_are_text_on_the_page(desk: Desk, examples: list[Example]) -> None:
    shown = desk.view(Request(picture=examples[0][0], words="<script>alert(1)</script>, sky", system=DENSE))
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_load(address: str, examples: list[Example], desk: Desk, tmp_path: Path) -> None:
    """The short form of tests/web/load.py, which also looks at the memory of a server of its own."""
    asked = questions(tmp_path)[::4]
    segmenter = twostage.load(DENSE, device="cpu")
    right = [segmenter(path, words.split(", ")).to_dict() for path, words in asked]
    outcome = put_under_load(address, os.getpid(), asked, right, clients=8, total=24)
    assert not outcome.wrong


def test_files_of_results_do_not_pile_up(desk: Desk, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twostage.web.requests._RESULTS", 2)
    monkeypatch.setattr(desk, "_results", type(desk._results)())
    asked = Request(picture=examples[0][0], words="sky, sand", system=DENSE)
    kept = [Path(desk.files(asked)[0]).parent for _ in range(4)]
    assert [folder.exists() for folder in kept] == [False, False, True, True]


def test_weights_that_are_not_there_are_told_before_the_page_opens() -> None:
    with pytest.raises(UserError, match=r"'nowhere\.pth'"):
        asked_systems([DENSE], ["nowhere.pth"], "cpu")
