"""The package's own `PathManager`: local files and http(s) URLs, which are downloaded to a cache."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathHandler", "PathManager"]

PathManager = PathManagerBase()
PathManager.register_handler(HTTPURLHandler())
