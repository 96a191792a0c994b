"""Pictures of Label Studio's tasks: by data address, by web address, or from Label Studio itself, which asks for a key."""

from __future__ import annotations

import base64
import http.client
import json
import os
import urllib.request
from typing import NamedTuple

from twostage.errors import UserError

_SECONDS = 60


class Origin(NamedTuple):
    """Where Label Studio is: its address, and the key of an account ("Access token" in its settings)."""

    address: str = ""
    key: str = ""

    @classmethod
    def from_environment(cls) -> Origin:
        """By the variables that its own SDK reads, `LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY`."""
        address = os.environ.get("LABEL_STUDIO_URL", "").rstrip("/")
        return cls(address, os.environ.get("LABEL_STUDIO_API_KEY", ""))

    def read(self, path: str) -> bytes:
        """The bytes of an upload or a file of its storage, such as `/data/upload/1/a.jpg`.

        Raises:
            UserError: its address or key is not known, or it does not hand the file over.
        """
        if not self.address or not self.key:
            raise UserError(
                f"picture '{path[:80]}' lies in Label Studio; set LABEL_STUDIO_URL to its address and LABEL_STUDIO_API_KEY to "
                "an access token of your account"
            )
        return _fetched(f"{self.address}{path}", self._authorization())

    def _authorization(self) -> str:
        # A personal token is a refresh token: two dots, and good for short-lived ones alone.
        if self.key.count(".") != 2:
            return f"Token {self.key}"
        body = json.dumps({"refresh": self.key}).encode()
        reply = _fetched(f"{self.address}/api/token/refresh", body=body)
        try:
            return f"Bearer {json.loads(reply)['access']}"
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{self.address}' gives no access for LABEL_STUDIO_API_KEY; make a new token") from error


def read_picture(address: str, origin: Origin) -> bytes:
    """The bytes of a picture. Raises UserError where there are none."""
    if address.startswith("data:"):
        try:
            return base64.b64decode(address.partition(",")[2], validate=True)
        except ValueError as error:
            raise UserError(f"the picture's data address is damaged ({error})") from error
    if address.startswith("/"):
        return origin.read(address)
    if origin.address and address.startswith(f"{origin.address}/"):
        return origin.read(address.removeprefix(origin.address))
    if not address.startswith(("http://", "https://")):
        raise UserError(f"picture '{address[:80]}' has no web address; serve it from Label Studio's storage")
    return _fetched(address)


def _fetched(address: str, authorization: str = "", body: bytes | None = None) -> bytes:
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"} if body else {})
        if authorization:
            # Not handed on to where the file is sent on to, which may be somebody else's storage.
            request.add_unredirected_header("Authorization", authorization)
        with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            return reply.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"picture '{address[:80]}' can't be fetched ({error})") from error
