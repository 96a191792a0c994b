"""Reference cases of single parts of ODISE: the implicit captioner, masked CLIP, the heads with all outputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.case import Case
from conformance.comparison import Comparison
from conformance.inputs import picture
from conformance.recording import Arrays
from conformance.seeded import seeded_image, stream
from conformance.systems.odise import (
    case_words,
    head_arrays,
    output_arrays,
    seeded_empty_prompt,
    seeded_model,
    settle_ties,
)
from conformance.weights import load_seeded
from twostage.clip.loading import load_clip
from twostage.clip.regions.shadow_tokens import read_masks
from twostage.clip.towers.vit import embed_image
from twostage.data.mapper import to_tensor
from twostage.predictions.geometry import Geometry
from twostage.proposals.queries import MaskedQueries
from twostage.systems.two_stage.heads import synonym_logits
from twostage.systems.two_stage.odise.captioner import ImplicitCaptioner, clip_pixels, embed_crops
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion, noise_factors
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.model import Encoded, patches_inside
from twostage.systems.two_stage.odise.weights import checkpoint_table

_FULL_SIZE = 512
# Channels of the smallest diffusion model, for cases of parts that do not run it.
_SMALL = {"unet_model_channels": 64, "vae_ch": 32}


def check_unit(case: Case) -> list[Comparison]:
    """Compare every array of a unit case."""
    checks = {"captioner": _captioner, "masked CLIP": _masked_clip, "heads": _heads}
    with torch.no_grad():
        return checks[case.meta["variant"].removeprefix("unit ")](case)


class _Parts(nn.Module):
    """CLIP and, where wanted, the captioner, under the names of the whole model."""

    def __init__(self, case: Case, *, with_captioner: bool) -> None:
        super().__init__()
        self.clip, self.tokenizer = load_clip(case.meta["clip_model_name"], quick_gelu="on")
        if with_captioner:
            embedding = self.clip.visual.proj.shape[1]
            self.features = nn.Module()
            self.features.captioner = ImplicitCaptioner(embedding=embedding, tokens=77, width=768, time_width=1280)
        load_seeded(self, checkpoint_table("label"), case)
        self.eval()


def _captioner(case: Case) -> list[Comparison]:
    parts = _Parts(case, with_captioner=True)
    captioner: Any = parts.features.captioner
    captioner.empty_prompt.copy_(seeded_empty_prompt(case.meta))
    diffusion = LatentDiffusion(
        vae=build_autoencoder((32, 64, 128, 128)),
        unet=build_unet((320, 320, 320, 320), heads=8, prompt_width=768),
        recompute=False,
    )
    arrays: Arrays = {
        "uncond": captioner.empty_prompt,
        "q_sample_factors_t0": torch.tensor(noise_factors()),
        "shared_noise": diffusion.noise,
        "shared_noise_32": diffusion.add_noise(torch.zeros(1, 4, 32, 32)) / noise_factors()[1],
        "time_sinusoid_t0": diffusion.unet.time_proj(torch.zeros(1)),
    }
    for side in case.meta["sides"]:
        pixels = torch.as_tensor(seeded_image(side, side, case.meta["image_seed"]).transpose(2, 0, 1).copy())
        crop = pixels[None].float() / 255
        if side != _FULL_SIZE:
            crop = F.interpolate(crop, size=(_FULL_SIZE, _FULL_SIZE), mode="bicubic", align_corners=False)
        embedding = embed_crops(parts.clip.visual, crop)
        prompt = captioner(embedding)
        found = {
            "image": crop,
            "clip_input": clip_pixels(parts.clip.visual, crop, "bicubic"),
            "clip_embed": embedding,
            "clip_project": captioner.to_prompt(embedding),
            "cond_inputs": prompt.context,
            "cond_emb": prompt.time,
        }
        arrays |= {f"side{side}_{name}": value for name, value in found.items()}
    case.told("crops")
    return case.compare_all(arrays)


def _masks(meta: dict[str, Any], padded: tuple[int, int]) -> Tensor:
    """The mask logits that the unit cases describe; the ends are set by each case."""
    entry = meta["mask_stream"]
    normals = stream(meta["weight_seed"], entry["name"]).standard_normal(tuple(entry["shape"]), dtype="float32")
    size = (padded[0] // 4, padded[1] // 4)
    return F.interpolate(torch.from_numpy(normals), size=size, mode="bilinear", align_corners=False)


def _masked_clip(case: Case) -> list[Comparison]:
    meta = case.meta
    parts = _Parts(case, with_captioner=False)
    visual, pixels = parts.clip.visual, to_tensor(picture(meta["image"]))
    masks = 4 * _masks(meta, (meta["padded_size"][0], meta["padded_size"][1]))
    masks[:, 0], masks[:, 1] = -10, 10
    inside = patches_inside(visual, masks)
    tokens = embed_image(visual, clip_pixels(visual, pixels[None].float() / 255, "bilinear"))
    regions = read_masks(visual, list(visual.transformer.resblocks), tokens, inside)
    groups = [name.split(", ") for name in meta["class_names"]]
    prompts = [meta["clip_prompt"].format(name) for group in groups for name in group]
    text = parts.clip.encode_text(parts.tokenizer(prompts))
    classes = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    arrays = {
        "mask_logits": masks,
        "match_patch_blocked": (~inside).float().unflatten(2, tokens.grid),
        "clip_mask_embed": regions,
        "clip_text_embed": text,
        "clip_logits": synonym_logits(
            regions, F.normalize(text, dim=-1), classes, parts.clip.logit_scale, int(classes.max()) + 1
        ),
    }
    case.told("masks", "num_queries")
    return case.compare_all(arrays)


def _heads(case: Case) -> list[Comparison]:
    meta = case.meta
    padded, image = tuple(meta["padded_size"]), tuple(meta["image_size"])
    masks = 4 * (_masks(meta, padded) - 1)
    masks[:, 0] = -10
    queries, seed = meta["num_queries"], meta["weight_seed"]

    def normals(name: str, width: int) -> Tensor:
        return torch.from_numpy(stream(seed, f"unit:{name}").standard_normal((1, queries, width), dtype="float32"))

    embeddings, regions = normals("mask_embed", 256), 0.3 * normals("clip_mask_embed", 768)
    rows: list[Comparison] = []
    case.told("inputs", "prompts")
    for variant, (alpha, beta) in meta["alpha_beta"].items():
        model, cfg = seeded_model(
            case, variant, narrow=_SMALL, backbone_in_size=(_FULL_SIZE, _FULL_SIZE), alpha=alpha, beta=beta
        )
        model.mask_embedding.logit_scale.fill_(torch.log(torch.tensor(1 / 0.07)))
        if model.objectness is not None:
            # The case gives what the objectness says.
            model.objectness = nn.Identity()
        words, overlap = case_words(model, meta)
        output = MaskedQueries(normals("class_logits", 2), masks)
        encoded = Encoded([(output, embeddings)], regions, Geometry(padded=padded, images=[image]))
        prediction = model.decode(encoded, words)
        found = head_arrays(model, encoded, words, meta)
        outputs, more = output_arrays(
            case, prediction, cfg, tuple(meta["output_size"]), meta["panoptic_segments"][variant], f"{variant}_"
        )
        arrays = Arrays({f"{variant}_{name}": value for name, value in (found | outputs).items()})
        arrays[f"argmax_{variant}"] = arrays[f"{variant}_argmax"]
        arrays[f"match_{variant}_inst_classes_sorted"] = arrays[f"{variant}_match_inst_classes_sorted"]
        settle_ties(case, arrays, f"{variant}_inst_scores_sorted", f"match_{variant}_inst_classes_sorted")
        rows += [overlap, *more, *case.compare_all(arrays)]
    return rows
