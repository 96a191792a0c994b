#!/usr/bin/env python
"""How time and memory of systems grow with classes and pixels, as one picture.

    python tools/benchmark.py --config-file configs/san_vitb.yaml --classes 20 150 847 --steps whole --json san.json \\
        MODEL.CLIP.PRETRAINED ''
    python tools/draw_growth.py san.json --output growth.png

Draws what any number of such files hold: by classes and by megapixels, each line at what was measured most often of the other.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import draw_growth_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = draw_growth_parser(__doc__).parse_args()
    # Imported only now, so that --help is quick.
    from twostage.commands.draw_growth import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
