"""open_clip's networks without the weights that the authors' code would download: all weights come from our side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

# The tag whose networks open_clip builds with OpenAI's activation, whatever the name says.
_OPENAI = "openai"


@contextlib.contextmanager
def random_clip() -> Iterator[None]:
    """Within it `open_clip.create_model_and_transforms` builds random networks, with the activation of the tag asked for."""
    import open_clip

    create = open_clip.create_model_and_transforms

    def without_weights(name: str, pretrained: str | None = None, **more: Any) -> Any:
        return create(name, pretrained=None, force_quick_gelu=pretrained == _OPENAI, **more)

    with mock.patch.object(open_clip, "create_model_and_transforms", without_weights):
        yield
