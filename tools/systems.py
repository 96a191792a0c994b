#!/usr/bin/env python
"""List the systems as their cards say; see `twostage/commands/systems.py`.

python tools/systems.py
"""

from __future__ import annotations

from twostage.commands.systems import main
from twostage.errors import run_cli

if __name__ == "__main__":
    run_cli(main)
