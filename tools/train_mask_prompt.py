#!/usr/bin/env python
"""Adapt CLIP to masked pictures, as OVSeg does: build mask-category pairs, train, measure.

    python tools/train_mask_prompt.py pairs --dataset toybox_train --output pairs/
    python tools/train_mask_prompt.py pairs --dataset toybox_captions --segmenter configs/toybox/ovseg.yaml \\
        --weights model_final.pth --output pairs/
    python tools/train_mask_prompt.py train --clip toybox-vit --pretrained toybox --pairs pairs/ --mode both \\
        --output tuned.safetensors
    python tools/train_mask_prompt.py accuracy --clip toybox-vit --pretrained tuned.safetensors --depth 3 \\
        --dataset toybox_val_open
    python tools/train_mask_prompt.py merge --weights model_final.pth --pretrained tuned.safetensors --output ovseg.safetensors

`pairs` takes a labelled set (one masked crop per class and picture) or a captioned one (a trained generator proposes, CLIP
pairs the caption's nouns with proposals). `train` has the published recipes: `--mode clip` fine-tunes the image tower,
`prompts` trains mask prompts alone, `both` does one after the other. What it writes is a CLIP file for MODEL.CLIP.PRETRAINED
(with MODEL.CLIP.MASK_PROMPT_DEPTH where it has prompts). `accuracy` prints how well masked pictures are named. `merge` puts
an adapted CLIP into a trained system's checkpoint, for MODEL.WEIGHTS.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import train_mask_prompt_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = train_mask_prompt_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.train_mask_prompt import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
