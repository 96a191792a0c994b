"""The arguments of the command line. Nothing heavy is imported here, so that `--help` answers at once.

Each function that ends in `_parser` takes the text that `--help` shows and the program's name; `twostage` and `tools/` share
them.
"""
