"""What `make gpu` runs: steps in an order, each a file with its tasks, done by processes that may break.

Some use tests/support. `tests` is no package here, and on a machine of somebody else's one may be installed by that
name, which Python would prefer: it is made known before.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

if "tests" not in sys.modules:
    _spec = ModuleSpec("tests", None, is_package=True)
    _spec.submodule_search_locations = [str(Path(__file__).parents[2] / "tests")]
    sys.modules["tests"] = module_from_spec(_spec)
