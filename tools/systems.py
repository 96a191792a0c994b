#!/usr/bin/env python
"""The systems as a table, read from their cards.

python tools/systems.py                    # a Markdown table
python tools/systems.py --json             # everything the cards say, but for keys and signatures
python tools/systems.py --update-readme    # writes our systems' rows into README.md
"""

from __future__ import annotations

from twostage.commands.tool_arguments import systems_tool_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = systems_tool_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.systems import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
