#!/usr/bin/env python
"""Paint pictures with words of your own on a web page of this machine.

python tools/serve.py --system toybox/san --weights output/san/model_final.pth
python tools/serve.py                               # every published system whose weights are on this machine

Listens on 127.0.0.1, so that only this machine sees it. Needs the extra: pip install 'twostage[web]'.
"""

from __future__ import annotations

from twostage.commands.arguments.systems import serve_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = serve_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.serve import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)
