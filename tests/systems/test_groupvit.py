"""GroupViT on transformers' network: read, recognised, and evaluated as its authors do, at tiny size with random weights."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from twostage.checkpoint.checkpointer import load_weights
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.cards import recognise_checkpoint
from twostage.systems.loading import build_from_config
from twostage.vocabulary import Vocabulary

library = pytest.importorskip("transformers")

WORDS = ["cat", "dog", "sky", "grass", "sand", "sea", "rock"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two grouping stages (6 groups, then 3), 4 x 4 patches, whose text tower reads CLIP's tokens."""
    # Of this seed the groups share the pictures of `noise` fairly.
    torch.manual_seed(4)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "depths": [1, 1, 1], "num_hidden_layers": 3,
        "num_group_tokens": [6, 3, 0], "num_output_groups": [6, 3, 3], "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    network = library.GroupViTModel(
        library.GroupViTConfig(
            text_config=text, vision_config=vision, projection_dim=24, projection_intermediate_dim=40
        )
    )
    # Fresh networks hardly differ from group to group and have batch norms that do nothing.
    for name, value in network.state_dict().items():
        if value.is_floating_point() and name != "logit_scale":
            value.copy_(value.abs() + 0.5 if name.endswith("running_var") else value + 0.5 * torch.randn_like(value))
    place = tmp_path_factory.mktemp("groupvit")
    network.save_pretrained(place)
    return place


def config(*opts: str):
    quiet = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    return load_config("configs/groupvit.yaml", [*quiet, *opts])


def of_folder(place: Path, *opts: str):
    return config("MODEL.GROUPVIT.PRETRAINED", str(place), *opts)


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_embeddings_are_those_of_transformers(folder: Path) -> None:
    model = build_from_config(of_folder(folder))
    network = library.GroupViTModel.from_pretrained(folder).eval()
    images = model.preprocess([{"image": noise(32, 32)}])
    tokens = model.text.tokenize(model.text.prompts("cat") + model.text.prompts("striped blue star"))
    theirs = network(input_ids=tokens, pixel_values=images.tensor, output_attentions=True)
    encoding = model.encode_windows(images.tensor)
    torch.testing.assert_close(F.normalize(encoding.image, dim=-1), theirs.image_embeds)
    text = model.embed_vocabulary(Vocabulary.from_words(["cat", "striped blue star"])).text
    torch.testing.assert_close(text, theirs.text_embeds)
    first, second = theirs.vision_model_output.attentions
    torch.testing.assert_close(encoding.grouping.soft, second @ first)
    torch.testing.assert_close(encoding.grouping.soft.sum(dim=1), torch.ones(1, 16))


def published(encoding, text: Tensor, scale: float, size: tuple[int, int], threshold: float | None) -> Tensor:
    """Scores `[C, height, width]` of one window, pixel by pixel (the authors' evaluation, written out)."""
    groups, image = F.normalize(encoding.groups[0], dim=-1), F.normalize(encoding.image[0], dim=-1)
    best = (image @ text.T).argsort(descending=True)[:5].tolist()
    rows = []
    for group in groups:
        logits = scale * text @ group
        among = torch.zeros(len(text))
        among[best] = logits[best].softmax(dim=0)
        rows.append(among * logits.softmax(dim=0))
    affinities = torch.stack(rows)
    soft = encoding.grouping.soft.unflatten(2, encoding.grid)
    owners = F.interpolate(soft, size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    scores = affinities[owners].permute(2, 0, 1)
    if threshold is None:
        return scores
    background = (scores.amax(dim=0) < min(threshold, float(affinities.max()))).float()
    return torch.cat([background[None], scores])


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
@pytest.mark.parametrize("threshold", [None, 0.2, 0.95])
@torch.no_grad()
def test_groups_are_named_as_published(folder: Path, size: tuple[int, int], threshold: float | None) -> None:
    opts = () if threshold is None else ("MODEL.GROUPVIT.BACKGROUND_THRESHOLD", str(threshold))
    model = build_from_config(of_folder(folder, *opts))
    words = WORDS if threshold is None else ["background", *WORDS]
    text = model.embed_vocabulary(Vocabulary.from_words(words))
    encoded = model.encode(model.preprocess([{"image": noise(*size)}]))
    (windows,) = encoded.windows
    assert windows.encoding.grid == (size[0] // 8, size[1] // 8) and len(windows.owners.unique()) == 3
    wanted = published(windows.encoding, text.text, float(model.scale), size, threshold)
    torch.testing.assert_close(model.decode(encoded, text).scores([size])[0], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_windows_are_averaged(folder: Path) -> None:
    model = build_from_config(of_folder(folder, "TEST.SLIDING.TILE", "32", "TEST.SLIDING.STRIDE", "16"))
    text = model.embed_vocabulary(Vocabulary.from_words(WORDS))
    picture = noise(32, 48)
    encoded = model.encode(model.preprocess([{"image": picture}]))
    scores = model.decode(encoded, text).scores([(32, 48)])[0]
    left, right = (
        model.decode(model.encode(model.preprocess([{"image": part}])), text).scores([(32, 32)])[0]
        for part in (picture[..., :32], picture[..., 16:])
    )
    torch.testing.assert_close(scores[..., :16], left[..., :16], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[..., 16:32], (left[..., 16:] + right[..., :16]) / 2, rtol=1e-4, atol=1e-5)


def test_a_file_of_transformers_is_recognised(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    recognised = recognise_checkpoint(load_file(file))
    assert recognised is not None and recognised[0].name == "GroupViT"
    # Older versions of transformers stored a tensor that is none.
    old = {**load_file(file), "text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(old, tmp_path / "old.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    read = build_from_config(of_folder(folder)).state_dict()
    for weights in (file, tmp_path / "old.safetensors"):
        # The folder has no weights of its own: those are the checkpoint's.
        model = build_from_config(of_folder(tmp_path, "MODEL.WEIGHTS", str(weights)))
        assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())
    table, _ = model.checkpoint_tables()
    assert set(table.to_official(model.state_dict())) == set(load_file(file))


# transformers' names -> the authors', in the order in which they are replaced.
AUTHORS = [
    (r"text_model\.encoder\.layers", "text_encoder.transformer.resblocks"),
    (r"resblocks\.(\d+)\.self_attn", r"resblocks.\1.attn"),
    (r"resblocks\.(\d+)\.layer_norm(\d)", r"resblocks.\1.ln_\2"),
    (r"resblocks\.(\d+)\.mlp\.fc1", r"resblocks.\1.mlp.c_fc"),
    (r"resblocks\.(\d+)\.mlp\.fc2", r"resblocks.\1.mlp.c_proj"),
    (r"text_model\.embeddings\.token_embedding", "text_encoder.token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "text_encoder.positional_embedding"),
    (r"text_model\.final_layer_norm", "text_encoder.ln_final"),
    (r"vision_model\.embeddings\.position_embeddings", "img_encoder.pos_embed"),
    (r"vision_model\.embeddings\.patch_embeddings\.projection", "img_encoder.patch_embed.proj"),
    (r"vision_model\.embeddings\.layernorm", "img_encoder.patch_embed.norm"),
    (r"vision_model\.layernorm", "img_encoder.norm"),
    (r"vision_model\.encoder\.stages", "img_encoder.layers"),
    (r"(layers\.\d+)\.layers\.(\d+)\.self_attn\.out_proj", r"\1.blocks.\2.attn.proj"),
    (r"(layers\.\d+)\.layers\.(\d+)\.self_attn", r"\1.blocks.\2.attn"),
    (r"(layers\.\d+)\.layers\.(\d+)\.layer_norm(\d)", r"\1.blocks.\2.norm\3"),
    (r"(layers\.\d+)\.layers\.(\d+)", r"\1.blocks.\2"),
    (r"pre_assign_attn\.attn\.out_proj", "pre_assign_attn.attn.proj"),
    (r"visual_projection\.3", "img_projector.linear_out"),
    (r"visual_projection", "img_projector.linear_hidden"),
    (r"text_projection\.3", "text_projector.linear_out"),
    (r"text_projection", "text_projector.linear_hidden"),
]


def authors_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network as the authors' training code saves it."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, new in AUTHORS:
            name = re.sub(rf"^{pattern}" if "_model" in pattern or "projection" in pattern else pattern, new, name)
        if re.search(r"linear_(hidden\.0|out)\.weight", name):
            tensor = tensor[:, :, None]
        made[name] = tensor
    for name in [n for n in made if ".q_proj." in n and ".downsample." not in n]:
        queries, keys, values = (made.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv")
        packed = name.replace(".q_proj.", ".qkv.") if "img_encoder" in name else name.replace(".q_proj.", ".in_proj_")
        made[packed] = torch.cat([queries, keys, values])
    return made | {"multi_label_logit_scale": torch.tensor(3.0)}


def test_a_file_of_the_authors_is_the_same_network(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    official = authors_file(load_file(folder / "model.safetensors"))
    # Names that stand in the authors' code.
    assert {
        "img_encoder.layers.1.blocks.0.attn.qkv.bias", "img_encoder.layers.0.downsample.assign.q_proj.weight",
        "img_encoder.layers.0.downsample.pre_assign_attn.attn.proj.weight", "img_encoder.layers.1.group_projector.1.fc1.bias",
        "img_encoder.layers.0.group_token", "text_encoder.transformer.resblocks.1.attn.in_proj_weight",
        "text_encoder.transformer.resblocks.0.mlp.c_proj.bias", "img_projector.linear_hidden.1.running_var",
        "text_projector.linear_out.bias", "logit_scale",
    } <= set(official)  # fmt: skip
    assert official["img_projector.linear_hidden.0.weight"].shape == (40, 32, 1)
    recognised = recognise_checkpoint(official)
    assert recognised is not None and (recognised[0].name, recognised[1]) == ("GroupViT", "authors")
    torch.save({"model": official, "epoch": 29}, tmp_path / "group_vit.pth")
    shutil.copy(folder / "config.json", tmp_path)
    with caplog.at_level(logging.INFO, "twostage"):
        model = build_from_config(of_folder(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "group_vit.pth")))
    assert f"official GroupViT checkpoint: {len(official)} tensors, all accounted for" in caplog.text
    read = build_from_config(of_folder(folder)).state_dict()
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())
    _, table = model.checkpoint_tables()
    again = table.to_official(model.state_dict())
    assert set(again) == set(official) - {"multi_label_logit_scale"}
    assert all(torch.equal(value, official[name]) for name, value in again.items())


def test_what_the_authors_files_never_hold_is_refused(folder: Path) -> None:
    official = authors_file(load_file(folder / "model.safetensors"))
    model = build_model(of_folder(folder))
    for name in ("img_encoder.layers.1.blocks.0.attn.relative", "text_encoder.cls_token", "img_encoder.head.weight"):
        with pytest.raises(UserError, match=f"'{re.escape(name)}', which no official GroupViT checkpoint has"):
            load_weights(model, {"model": official | {name: torch.zeros(2)}}, "other.pth")
    part = {name: value for name, value in official.items() if not name.endswith("blocks.0.attn.qkv.bias")}
    with pytest.raises(
        UserError, match=r"9 tensors missing \(first: 'network\.vision_model\..*self_attn\.k_proj\.bias'\)"
    ):
        load_weights(model, {"model": part}, "part.pth")


def test_what_is_no_groupvit_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL\.GROUPVIT\.PRETRAINED '.*none' can't be read"):
        build_model(of_folder(tmp_path / "none"))
    library.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match=r"is a 'vit'; it must be a 'groupvit'"):
        build_model(of_folder(tmp_path / "vit"))
    part = shutil.copytree(folder, tmp_path / "part")
    save_file(
        {n: t for n, t in load_file(part / "model.safetensors").items() if not n.startswith("text_projection.3.")},
        part / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=r"lacks 2 tensors \(first: 'text_projection\.3\.bias'\)"):
        build_model(of_folder(part))


def test_it_is_not_trained(folder: Path) -> None:
    model = build_model(of_folder(folder)).train()
    with pytest.raises(UserError, match="GroupViT is training-free"):
        model([{"image": noise(32, 32), "vocabulary": Vocabulary.from_words(WORDS)}])
