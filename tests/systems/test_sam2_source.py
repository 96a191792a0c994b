"""SAM 2 as a source of masks: a tiny network of transformers with random weights, asked at a grid of points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from twostage.api import find_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.mask_sources.building import mask_source_from_config
from twostage.systems.mask_sources.sam2_grid import Sam2Grid

library = pytest.importorskip("transformers")

SIDE = 64
PARTS = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE],
            "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "window_size_per_stage": [8, 4, 4, 2],
            "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("sam2")
    network = library.Sam2Model(library.Sam2Config(**PARTS))
    # Fresh networks say nearly nothing.
    for value in network.parameters():
        value.data.add_(0.2 * torch.randn_like(value))
    network.save_pretrained(place)
    return place


def source(place: Path, *opts: str) -> Sam2Grid:
    quiet = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")
    masks = ("MODEL.MASKS.SOURCE", "sam2", "MODEL.MASKS.MODEL", str(place), "MODEL.MASKS.POINTS_PER_SIDE", "3")
    made = mask_source_from_config(load_config(find_config("toybox/corrclip"), [*quiet, *masks, *opts]))
    assert isinstance(made, Sam2Grid)
    return made


def picture(height: int = 40, width: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_a_point_has_the_mask_that_transformers_gives_it(folder: Path) -> None:
    given = picture()
    points = torch.tensor([[0.25, 0.5], [0.9, 0.1]])
    logits, scores = source(folder).prompter(given)(points)
    network = library.Sam2Model.from_pretrained(folder).eval()
    square = F.interpolate(given[None].float(), size=(SIDE, SIDE), mode="bilinear", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    answer = network(
        pixel_values=(square - mean.view(3, 1, 1)) / std.view(3, 1, 1),
        input_points=torch.tensor([[[[16.0, 32.0]], [[57.6, 6.4]]]]),
        multimask_output=False,
    )
    wanted = F.interpolate(answer.pred_masks[0], size=(40, 60), mode="bilinear")[:, 0]
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(scores, answer.iou_scores[0, :, 0])
    assert logits.shape == (2, 40, 60) and not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_masks_that_are_not_good_enough_are_left_out(folder: Path) -> None:
    grid = source(folder)
    everything = Sam2Grid(network=grid.network, side=3, min_iou=-9.0, min_stability=-1.0, batch=4)
    labels = everything(picture(), None)
    assert labels.shape == (40, 60) and labels.dtype == torch.int64 and 1 <= int(labels.max()) <= 9
    assert not Sam2Grid(network=grid.network, side=3, min_iou=99.0, min_stability=0.0, batch=4)(picture(), None).any()


def test_a_network_for_videos_holds_that_for_pictures(folder: Path, tmp_path: Path) -> None:
    small = {
        "image_size": SIDE, "memory_attention_hidden_size": 16, "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": 16, "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 16,
        "memory_fuser_embed_dim": 16, "memory_fuser_intermediate_dim": 32,
    }  # fmt: skip
    video = library.Sam2VideoModel(library.Sam2VideoConfig(**PARTS, **small))
    video.save_pretrained(tmp_path)
    read = source(tmp_path).network.state_dict()
    theirs = video.state_dict()
    assert set(read) == set(source(folder).network.state_dict())
    assert all(value.equal(theirs[name]) for name, value in read.items())


def test_what_is_no_sam2_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.MODEL '.*none' can't be read"):
        source(tmp_path / "none")
    library.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match=r"is a 'vit'; allowed are sam2 and sam2_video"):
        source(tmp_path / "vit")
    library.Sam2Config(**PARTS).save_pretrained(tmp_path / "part")
    tensors = {n: t for n, t in load_file(folder / "model.safetensors").items() if n != "no_memory_embedding"}
    save_file(tensors, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 tensors of SAM 2 \(first: 'no_memory_embedding'\)"):
        source(tmp_path / "part")
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.SOURCE is 'sam2', which needs MODEL\.MASKS\.MODEL"):
        source(Path(), "MODEL.MASKS.MODEL", "")
