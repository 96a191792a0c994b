#!/usr/bin/env python
"""How far labels of a large picture depend on where its tiles lie, for overlaps of 0, 1/8, 1/4 and 1/2 of a tile.

    python tools/tile_placements.py --system toybox/maskclip

The picture is 25 toybox scenes side by side. Tiles lie at four places; the table says on which share of the pixels two of them
disagree, away from the picture's border.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import tile_placements_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = tile_placements_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.tile_placements import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
