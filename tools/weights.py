#!/usr/bin/env python
"""Published weights by name: what there is, getting it, checking it.

python tools/weights.py list                        # every published checkpoint: licence, size, whether it is here
python tools/weights.py get san_vit_b_16.pth        # by its name, by its config's (san_vitb), hf://owner/repository/file, https://...
python tools/weights.py verify                      # that what is here is what it was on first use

Files are kept in TWOSTAGE_HOME (default: the user's cache folder); TWOSTAGE_OFFLINE=1 forbids the network.
"""

from __future__ import annotations

from twostage.commands.arguments.systems import weights_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = weights_parser(__doc__).parse_args()
    from twostage.commands.weights import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
