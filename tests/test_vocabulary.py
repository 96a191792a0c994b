"""Vocabularies: where names come from and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twostage.errors import UserError
from twostage.vocabulary import Vocabulary
from twostage.web.limits import parse_words


@pytest.mark.parametrize("module", ["twostage.vocabulary", "twostage.data.loaders", "twostage.segmenter"])
def test_whichever_module_is_imported_first_finds_the_others(module):
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_synonyms():
    vocabulary = Vocabulary.from_words([" cat ", "sofa, couch"])
    assert vocabulary.names == ("cat", "sofa, couch")
    assert vocabulary.synonyms(split=True) == (("cat",), ("sofa", "couch"))
    assert vocabulary.synonyms(split=False) == (("cat",), ("sofa, couch",))


@pytest.mark.parametrize(
    "spelling", ["sofa,couch", "sofa, couch", " sofa ,couch, ", ["sofa", "couch"], ("sofa,couch",)]
)
def test_synonyms_are_spelt_in_many_ways(spelling):
    assert Vocabulary.from_words(["cat", spelling]).synonyms(split=True) == (("cat",), ("sofa", "couch"))


def test_published_lists_keep_their_letters():
    names = ("wall,building", "bed ", "wall,building")
    assert Vocabulary.published(names).synonyms(split=True) == (("wall,building",), ("bed",), ("wall,building",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "empty"),
        (["cat", " "], "position 2"),
        (["cat", "Cat"], "twice"),
        ("cat", "list of names"),
        (None, "list of names"),
        (["cat", None], "no name"),
        (["cat", 7], "no name"),
        (["cat", ["a", ""]], "empty synonym"),
        ([["cat"], "cat,"], "twice"),
    ],
)
def test_refused(words, said):
    with pytest.raises(UserError, match=said):
        Vocabulary.from_words(words)


def test_parse():
    assert Vocabulary.parse("cat, sofa").names == ("cat", "sofa")
    assert Vocabulary.parse("cat; sofa, couch").names == ("cat", "sofa, couch")
    for nothing in ("", " ", " , ", ";"):
        with pytest.raises(UserError, match=f"{nothing!r} names nothing"):
            Vocabulary.parse(nothing)


def test_from_file(tmp_path):
    lines = tmp_path / "classes.txt"
    lines.write_text("cat\nsofa, couch\n\n")
    assert Vocabulary.parse(str(lines)).names == ("cat", "sofa, couch")
    json_file = tmp_path / "classes.json"
    json_file.write_text('["cat", "dog"]')
    assert Vocabulary.from_file(json_file).names == ("cat", "dog")
    json_file.write_text('{"cat": 1}')
    with pytest.raises(UserError, match="list of names"):
        Vocabulary.from_file(json_file)
    with pytest.raises(UserError, match=r"none\.txt"):
        Vocabulary.parse("none.txt")


def test_every_kind_of_file_gives_the_same_names(tmp_path):
    contents = {
        "lines.txt": b"cat\nsofa,couch\n",
        "bom.TXT": b"\xef\xbb\xbfcat\r\nsofa, couch\r\n",
        "utf16.names": "cat\nsofa, couch\n".encode("utf-16"),
        "no_suffix": b"cat\n\nsofa,couch,\n",
        "column.csv": b'id,name\n1,cat\n2,"sofa, couch"\n',
        "one.csv": b'cat\n"sofa,couch"\n',
        "list.json": b'\xef\xbb\xbf["cat", ["sofa", "couch"]]',
        "id2label.json": b'{"1": "sofa,couch", "0": "cat"}',
        "coco.json": b'{"categories": [{"id": 2, "name": "sofa, couch"}, {"id": 1, "name": "cat"}]}',
        "list.yaml": b"- cat\n- [sofa, couch]\n",
        "yolo.yml": b"path: x\nnames:\n  1: sofa, couch\n  0: cat\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert Vocabulary.parse(str(tmp_path / name)).names == ("cat", "sofa, couch"), name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"caf\xe9\n", "no UTF-8 text"),
        ("a.names", b"\x00\x01\x00", "is no text"),
        ("a.csv", b"1,cat\n2,dog\n", "several columns"),
        ("a.json", b"[", "no valid json"),
        ("a.yaml", b"cat\ndog\n", "must hold a list"),
        ("a.yml", b"!!python/object/apply:os.system ['true']", "no valid yml"),
        ("a.json", b'{"a": "cat"}', "must hold a list"),
        ("a.json", b"[" * 100000, "no valid json"),
        ("a", b"", "is empty"),
    ],
)
def test_files_without_names_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        Vocabulary.parse(str(tmp_path / name))


def test_a_path_is_never_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("cat\n")
    assert Vocabulary.parse("words").names == ("cat",)
    for text in ("no such folder/", "classes.csv", "~/nothing", "./a"):
        with pytest.raises(UserError, match="does not exist"):
            Vocabulary.parse(text)
    (tmp_path / "words.txt").write_text("cat\n")
    with pytest.raises(UserError, match="is a file"):
        Vocabulary.parse("dog, words.txt")


def test_words_of_an_ascii_locale():
    garbled = "caf\u00e9, \u732b".encode().decode("ascii", "surrogateescape")
    assert Vocabulary.parse(garbled).names == ("caf\u00e9", "\u732b")
    assert Vocabulary.from_words(["cafe\u0301"]).names == ("caf\u00e9",)


def test_a_benchmark_stands_for_its_classes():
    assert len(Vocabulary.parse("ade20k_150")) == 150
    # As papers call them.
    assert len(Vocabulary.parse("A-150")) == 150 and len(Vocabulary.parse("PC-59")) == 59
    assert Vocabulary.parse("A-149").names == ("A-149",)


def test_vocabulary_of_a_dataset_or_a_folder(tmp_path) -> None:
    assert Vocabulary.parse("voc_sem_seg_val").names[19] == "tv"
    assert len(Vocabulary.parse("voc_2012_test_background_sem_seg")) == 59
    (tmp_path / "classes.txt").write_text("cat\nsofa, couch\n")
    assert Vocabulary.parse(str(tmp_path)).names == ("cat", "sofa, couch")


@pytest.mark.parametrize("word", ["a\0b", "bell\x07", "\ud800", "half \ud83d"])
def test_characters_that_no_file_takes(word: str) -> None:
    with pytest.raises(UserError, match="control character"):
        Vocabulary.from_words(["cat", word])


def test_byte_order_marks_inside_are_no_letters(tmp_path: Path) -> None:
    """Files that were joined have one in the middle."""
    (tmp_path / "names.txt").write_text("cat\n\ufeffdog\n", encoding="utf-8")
    assert Vocabulary.from_file(tmp_path / "names.txt").names == ("cat", "dog")


def test_a_csv_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("x" * 200_000)
    with pytest.raises(UserError, match="no valid csv"):
        Vocabulary.from_file(tmp_path / "names.csv")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('{"categories": [{"name": "cat", "synonyms": "kitten"}]}', ("cat, kitten",)),
        ('{"categories": [{"name": "cat", "synonyms": 3}]}', None),
        ('{"categories": [{"name": "cat", "synonyms": null}]}', None),
        ('{"\u00b2": "cat"}', None),
        ('{"names": {"' + "9" * 5000 + '": "cat"}}', None),
    ],
)
def test_odd_objects(tmp_path: Path, content: str, names: tuple[str, ...] | None) -> None:
    (tmp_path / "names.json").write_text(content, encoding="utf-8")
    if names:
        assert Vocabulary.from_file(tmp_path / "names.json").names == names
        return
    with pytest.raises(UserError, match=r"names\.json"):
        Vocabulary.from_file(tmp_path / "names.json")


@pytest.mark.parametrize("content", ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "? [a]\n: b", "2024-13-45"])
def test_yaml_that_its_reader_trips_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.yaml").write_text(content)
    with pytest.raises(UserError, match=r"names\.yaml"):
        Vocabulary.from_file(tmp_path / "names.yaml")


@pytest.mark.parametrize("word", ["cat\ndog", "cat\r\ndog", "cat\u2028dog", "sofa, cat\x85dog"])
def test_a_name_over_several_lines(word: str) -> None:
    """Pasted lines are no single class; line breaks around names are blanks. On every door alike."""
    for read in (lambda: Vocabulary.from_words([word]), lambda: Vocabulary.parse(word), lambda: parse_words(word)):
        with pytest.raises(UserError, match="a name over several lines; put commas"):
            read()


def test_line_breaks_around_names() -> None:
    typed = "cat,\n sofa\n,\n"
    assert Vocabulary.parse(typed).names == parse_words(typed).names == ("cat", "sofa")
    assert Vocabulary.from_words(["cat\n", "\nsofa,\ncouch"]).names == ("cat", "sofa, couch")


@pytest.mark.parametrize("mark", ["\u200b", "\u2060", "\u00ad", "\u200e", "\u202a", "\u200d"])
def test_invisible_letters_make_no_other_word(mark: str, tmp_path: Path) -> None:
    """They come along with text copied from pages; the class is the one that people see."""
    word = f"{mark}ca{mark}t{mark}"
    (tmp_path / "names.txt").write_text(word, encoding="utf-8")
    (tmp_path / "classes.json").write_text(f'["{word}"]', encoding="utf-8")
    read = [Vocabulary.from_words([word]), Vocabulary.parse(word), parse_words(word)]
    read += [Vocabulary.from_file(tmp_path / "names.txt"), Vocabulary.parse(str(tmp_path))]
    assert {found.names for found in read} == {("cat",)}
    with pytest.raises(UserError, match="'cat' twice"):
        Vocabulary.from_words(["cat", word])
    with pytest.raises(UserError, match="empty name"):
        Vocabulary.from_words([mark])


def test_joiners_are_spelling_in_scripts_that_have_them() -> None:
    names = ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469")
    assert Vocabulary.from_words(names).names == names
    assert Vocabulary.from_words([f"{names[0]}\u200c", "a\u200c\u0645"]).names == (names[0], "a\u0645")
    assert Vocabulary.from_words(["polar\u00a0bear"]).names == ("polar bear",)
