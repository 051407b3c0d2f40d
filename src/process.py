"""What another Python process of ours needs to find this code, wherever it is started."""

import os
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the folder that holds `src` first in PYTHONPATH."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | more
