"""What a kill -9 at a random moment leaves behind.

The local Hub and the tiny model are those of the tests.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
