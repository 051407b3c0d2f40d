"""The notebooks: stripped, and executed on generated images; what their text claims, their cells assert."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .conftest import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel of this very Python, whatever Jupyter of this machine has registered as python3."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    spec.write_text(f'{{"argv": {argv}, "display_name": "here", "language": "python"}}')
    return folder


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_runs", "explore_data", "inside_emisnet"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_holds_no_path_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"} and not any(c.metadata for c in notebook.cells)
    text = path.read_text()
    assert not any(f"{quote}/{name}/" in text for quote in "\"'" for name in ("home", "root", "work", "Users"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "JUPYTER_PATH": kernels, "JUPYTER_DATA_DIR": tmp_path, "JUPYTER_RUNTIME_DIR": tmp_path, "IPYTHONDIR": tmp_path,
        "OMP_NUM_THREADS": 1, "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    for name in [name for name in os.environ if name.startswith("EMISNET_NOTEBOOK_")]:
        monkeypatch.delenv(name)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    pictures = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs if "data" in out]
    assert sum("image/png" in out["data"] for out in pictures) >= 3
    if folder := os.environ.get(
        "SHOW_NOTEBOOKS"
    ):  # to look at them: SHOW_NOTEBOOKS=folder pytest tests/test_notebooks.py
        nbformat.write(notebook, Path(folder) / path.name)
