"""The Hugging Face Hub: addresses of its files and who asks, by `huggingface_hub`, which knows mirrors and tokens."""

from __future__ import annotations

import os

from twostage.weights.address import HubFile


def hub_url(file: HubFile) -> str:
    """Where the file's bytes are; at the mirror HF_ENDPOINT where that is set."""
    from huggingface_hub import hf_hub_url

    mirror = os.environ.get("HF_ENDPOINT")
    return str(hf_hub_url(file.repository, file.file, repo_type=file.kind, revision=file.revision, endpoint=mirror))


def hub_headers() -> dict[str, str]:
    """The user's token, for files whose licence has to be accepted; empty where there is none."""
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
