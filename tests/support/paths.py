"""Where the checkout is, whichever folder a test lies in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GRAPHS = ROOT / "examples" / "graphs"
