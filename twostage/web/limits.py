"""What the page takes from strangers: how large a file, how many pixels and words, and no path of this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np

from twostage.data.images import open_image, read_rgb
from twostage.errors import UserError, shown
from twostage.vocabulary import Vocabulary
from twostage.words import split_words

FILE_BYTES = 20 * 2**20
PIXELS = 20_000_000
WORDS = 200
LETTERS = 5_000


@dataclasses.dataclass(frozen=True)
class Upload:
    """A picture as it was sent: the content of its file, and the sha256 of that."""

    content: bytes
    key: str

    def pixels(self) -> np.ndarray:
        """uint8 RGB `[H, W, 3]`, upright.

        Raises:
            UserError: no picture that can be read, or more pixels than `PIXELS`.
        """
        with open_image(io.BytesIO(self.content), what="picture", cure="try another file") as image:
            width, height = image.size
            # Before anything is decoded: a small file may hold a huge picture.
            if width * height > PIXELS:
                raise UserError(
                    f"the picture has {width} x {height} pixels; make it smaller, {PIXELS / 1e6:.0f} million are allowed"
                )
        return read_rgb(io.BytesIO(self.content))


def read_upload(path: str | None) -> Upload:
    """The picture that was uploaded to `path`, undecoded.

    Raises:
        UserError: none was, or it is larger than `FILE_BYTES`.
    """
    if not path:
        raise UserError("give a picture first: drop, paste or choose one")
    file = Path(path)
    if not file.is_file():
        raise UserError("the picture is no longer here; give it again")
    if file.stat().st_size > FILE_BYTES:
        raise UserError(f"the picture's file is larger than {FILE_BYTES // 2**20} MB; make it smaller")
    content = file.read_bytes()
    return Upload(content, hashlib.sha256(content).hexdigest())


def parse_words(given: object, what: str = "words") -> Vocabulary:
    """Names separated by commas, or by semicolons where names hold synonyms ("cat; sofa, couch"); scripts may send a list.

    Unlike `Vocabulary.parse` this never takes them for a file, a folder or a dataset of this machine.

    Raises:
        UserError: none, too many, something else, or a name twice.

    >>> parse_words("cat; sofa,couch").names, parse_words(["cat", ["sofa", "couch"]]).names
    (('cat', 'sofa, couch'), ('cat', 'sofa, couch'))
    """
    if not isinstance(given, str | list | None):
        raise UserError(f"the {what} are {shown(given)}; give names separated by commas, such as cat, sofa")
    letters = len(given if isinstance(given, str) else str(given or ""))
    if letters > LETTERS:
        raise UserError(f"the {what} have {letters} letters; {LETTERS} are allowed")
    names = given if isinstance(given, list) else split_words(given or "")
    if not names:
        raise UserError(f"give {what}: names separated by commas, such as cat, sofa")
    if len(names) > WORDS:
        raise UserError(f"these are {len(names)} {what}; {WORDS} are allowed")
    return Vocabulary.from_words(names, source=f"the {what}", from_strangers=True)
