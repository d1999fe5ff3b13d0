"""Lets the tests of this folder import what they share: `tiny`, a small job, and `kill_target`, which runs it alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
