"""Google Drive: from a file's id to the address of its bytes, past the page that warns of large files.

`gdown` reads that page.
"""

from __future__ import annotations

import requests

from twostage.weights.address import DRIVE_HOST
from twostage.weights.patience import Patience
from twostage.weights.transfer import NotThereError, TransferError, reason_of

# Where an id is asked for; Drive redirects from there.
START = f"https://{DRIVE_HOST}/uc"


def direct_url(session: requests.Session, identity: str, patience: Patience) -> str:
    """Where the bytes of the file with this id are, for `session`, which keeps Drive's cookies.

    Raises:
        TransferError: nobody answers, or a page without a way to the file (not public, asked for too often).
    """
    # Takes a quarter of a second, and only Drive's files need it.
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    query = {"id": identity, "export": "download"}
    timeout = (patience.connect, patience.read)
    try:
        with session.get(START, params=query, stream=True, timeout=timeout) as answer:
            if answer.status_code in (requests.codes.not_found, requests.codes.gone):
                raise NotThereError("Drive has no such file, or doesn't show it to everybody")
            if not answer.headers.get("Content-Type", "").startswith("text/html"):
                return str(answer.url)
            return str(get_url_from_gdrive_confirmation(answer.text))
    except FileURLRetrievalError as error:
        reason = " ".join(str(error).split()).split(". Check FAQ")[0]
        raise TransferError(f"Drive shows a page without the file: {reason}") from error
    except requests.RequestException as error:
        raise TransferError(reason_of(error)) from error
