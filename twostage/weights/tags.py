"""Where the weights are that open_clip and timm know by a tag ("openai", "lvd142m"): the same files, from our own store."""

from __future__ import annotations

from typing import Any

from twostage.weights.address import Address, parse_address

# Published under either name; what is read without unpickling goes first.
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


def open_clip_addresses(tag: dict[str, Any]) -> list[Address]:
    """What open_clip knows of a tag (`get_pretrained_cfg`) as addresses, of which the first that exists holds the weights.

    OpenAI's own files come before their copies on the Hub: their addresses say what their sha256 is.
    """
    url, hub = tag.get("url", ""), tag.get("hf_hub", "")
    if "openaipublic" in url or not hub:
        return [parse_address(url)]
    repository, _, file = hub.rpartition("/")
    return [parse_address(f"hf://{repository}/{name}") for name in ((file,) if file else _OPEN_CLIP_FILES)]


def timm_addresses(tag: Any) -> list[Address]:
    """The same for timm's `PretrainedCfg`; empty where timm knows of a file in a layout of its own only."""
    if tag.hf_hub_id:
        names = (tag.hf_hub_filename,) if tag.hf_hub_filename else _TIMM_FILES
        return [parse_address(f"hf://{tag.hf_hub_id}/{name}") for name in names]
    return [parse_address(tag.url)] if tag.url and not tag.custom_load else []
