"""Makes `tiny` (a two-layer system on a few small images) importable, here and in the processes tests start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
