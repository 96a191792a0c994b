"""Serve the web page: `twostage serve` and `tools/serve.py`."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os

from twostage.errors import UserError
from twostage.machine import find_device


def run_from_arguments(args: argparse.Namespace) -> None:
    """Open the page and serve it until the process is stopped.

    Raises:
        UserError: the extra is missing, a system can't be served, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the web page needs Gradio; install it by: pip install 'twostage[web]'")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; it must lie between 0 and 65535")
    find_device(args.device, "--device")
    # Gradio's own calls home, and its look for newer versions.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from twostage.web.available import asked_systems, systems_here
    from twostage.web.page import build_page, open_page
    from twostage.web.requests import Desk

    opts = ["MODEL.PRECISION", "fast"] if args.fast else []
    if args.system:
        systems = asked_systems(args.system, args.weights, args.device, opts)
    else:
        systems = systems_here(args.device, opts)
    if args.weights and not args.system:
        raise UserError("--weights needs --system, which says what they are weights of")
    desk = Desk(systems)
    print(f"systems: {', '.join(desk.systems)}")
    if not _is_loopback(args.host):
        print(f"note: {args.host} can be reached from other machines, and nobody is asked for a password")
    page = build_page(desk)
    try:
        address = open_page(page, host=args.host, port=args.port, block=False)
    except OSError as error:
        raise UserError(f"can't listen on {args.host}:{args.port} ({error}); choose another --port") from error
    print(f"open {address} in a browser; Ctrl+C ends it", flush=True)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
        desk.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
