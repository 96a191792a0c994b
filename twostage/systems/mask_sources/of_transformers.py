"""Panoptic segments of Mask2Former and EoMT as transformers runs them, by that library's own post-processing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twostage.errors import UserError
from twostage.foundation.sam import transformers_library

_ARCHITECTURES = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "eomt": "EomtForUniversalSegmentation",
}


class TransformersMasks:
    """Segments of a panoptic model, in the order of its queries. A `MaskSource`."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def read(cls, name: str) -> TransformersMasks:
        """The model in a folder of transformers' layout, or in a repository of its hub; weights without pickle only.

        Raises:
            UserError: transformers is not installed, nothing is there, or it is of another architecture.
        """
        library = transformers_library("MODEL.MASKS.SOURCE 'transformers'")
        try:
            kind = library.AutoConfig.from_pretrained(name).model_type
            if kind not in _ARCHITECTURES:
                raise UserError(f"MODEL.MASKS.MODEL {name!r} is a {kind!r}; allowed are {' and '.join(_ARCHITECTURES)}")
            model = getattr(library, _ARCHITECTURES[kind]).from_pretrained(name, use_safetensors=True)
            return cls(model, library.AutoImageProcessor.from_pretrained(name))
        except (OSError, ValueError) as error:
            raise UserError(
                f"MODEL.MASKS.MODEL {name!r} can't be read ({' '.join(str(error).split())[:200]}); give a folder with "
                "config.json, preprocessor_config.json and model.safetensors, or a repository of the hub"
            ) from error

    @torch.no_grad()
    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        inputs = self.processor(images=picture.cpu(), return_tensors="pt", input_data_format="channels_first")
        device = next(self.model.parameters()).device
        outputs = self.model(**{key: value.to(device) for key, value in inputs.items() if key == "pixel_values"})
        extra = {"patch_offsets": inputs["patch_offsets"]} if "patch_offsets" in inputs else {}
        if extra:
            outputs.patch_offsets = inputs["patch_offsets"]
        (found,) = self.processor.post_process_panoptic_segmentation(
            outputs, target_sizes=[(int(picture.shape[1]), int(picture.shape[2]))]
        )
        segments = found["segmentation"].long().cpu()
        # Both count from their own start and leave gaps at 0 or -1; where nothing is found all is a gap.
        numbers = torch.tensor([segment["id"] for segment in found["segments_info"]], dtype=torch.int64)
        labels = torch.zeros_like(segments)
        for number, value in enumerate(numbers.tolist(), start=1):
            labels[segments == value] = number
        return labels
