"""Vocabularies: where names come from and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from twostage.errors import UserError
from twostage.vocabulary import Vocabulary


@pytest.mark.parametrize("module", ["twostage.vocabulary", "twostage.data", "twostage.segmenter"])
def test_whichever_module_is_imported_first_finds_the_others(module):
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_synonyms():
    vocabulary = Vocabulary.from_words([" cat ", "sofa, couch"])
    assert vocabulary.names == ("cat", "sofa, couch")
    assert vocabulary.synonyms(split=True) == (("cat",), ("sofa", "couch"))
    assert vocabulary.synonyms(split=False) == (("cat",), ("sofa, couch",))


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "empty"), (["cat", " "], "position 2"), (["cat", "Cat"], "twice"), ("cat", "list of names")],
)
def test_refused(words, said):
    with pytest.raises(UserError, match=said):
        Vocabulary.from_words(words)


def test_parse():
    assert Vocabulary.parse("cat, sofa").names == ("cat", "sofa")
    assert Vocabulary.parse("cat; sofa, couch").names == ("cat", "sofa, couch")
    with pytest.raises(UserError, match="empty"):
        Vocabulary.parse(" , ")


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


def test_vocabulary_of_a_dataset_or_a_folder(tmp_path) -> None:
    import twostage.data  # noqa: F401  (registers the datasets)

    assert Vocabulary.parse("voc_sem_seg_val").names[19] == "tv"
    assert len(Vocabulary.parse("voc_2012_test_background_sem_seg")) == 59
    (tmp_path / "classes.txt").write_text("cat\nsofa, couch\n")
    assert Vocabulary.parse(str(tmp_path)).names == ("cat", "sofa, couch")
