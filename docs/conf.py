"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import os

from twostage import __version__

# The modules that the reference describes are imported, on whatever thread count the machine is asked for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "twostage"
author = "The twostage contributors"
project_copyright = author
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "twostage"
exclude_patterns = ["_build", "benchmarks"]
myst_heading_anchors = 3
# Signatures name types as the source does.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Names in single backticks are code, as in the source.
default_role = "code"
