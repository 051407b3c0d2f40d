"""The .pte file, made by the command in a process of its own, since ExecuTorch's imports warn of much."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from src.weights import check_sha256

from .conftest import REPO

OPENED_AGAIN = """
import sys
from pathlib import Path
import torch
from src.exporting.executorch_file import PteNet
path = Path(sys.argv[1])
net = PteNet(path)
print(tuple(net(torch.zeros(3, 3, 32, 32)).shape))
content = bytearray(path.read_bytes())
content[-1] ^= 1
path.write_bytes(content)
try:
    PteNet(path)
except ValueError as error:
    print("refused:", error)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is not installed (the extra `executorch`)")
def test_a_pte_file_computes_what_the_run_computes(trained_run: Path, tmp_path: Path) -> None:
    words = [f"run={trained_run}", "formats=[executorch]", f"out={tmp_path}", "threads=[1]", "seconds=0"]
    done = subprocess.run([sys.executable, "-m", "src.export", *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = (row for row in json.loads((tmp_path / "parity.json").read_text())["rows"] if row["what"] == "executorch")
    assert row["passed"] and 0 < row["max_logit_difference"] < 1e-3 and row["dice_difference"] < 1e-4
    assert "XNNPACK" in row["notes"][0] and row["shapes"] == "one image of 32x32"
    path = tmp_path / "model.pte"
    assert check_sha256(path) and row["bytes"] == path.stat().st_size
    about = json.loads((tmp_path / "model.pte.json").read_text())
    assert about["size"] == [32, 32] and about["thresholds"] and about["protocol"]["image"]
    code = [sys.executable, "-c", OPENED_AGAIN, str(path)]
    told = subprocess.run(code, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[-2] == "(3, 1, 32, 32)" and told[-1].startswith("refused:")
