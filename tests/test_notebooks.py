"""The notebooks: stripped, and executed on generated images; what their text claims, their cells assert."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from .conftest import PATIENCE, REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
READS_A_RUN = {"inside_emisnet": "EMISNET_NOTEBOOK_RUN"}
FEWER_IMAGES = "data=synthetic data.counts=[60,15,15]"  # than 360, which take longer to draw than all else


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel of this very Python, whatever Jupyter of this machine has registered as python3."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
    return folder


@pytest.fixture
def execute(kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a notebook as Jupyter does, from its own folder, with nothing of this machine's Jupyter."""
    for name, value in {
        "JUPYTER_PATH": kernels, "JUPYTER_DATA_DIR": tmp_path, "JUPYTER_RUNTIME_DIR": tmp_path, "IPYTHONDIR": tmp_path,
        "OMP_NUM_THREADS": 1, "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    for name in [name for name in os.environ if name.startswith("EMISNET_NOTEBOOK_")]:
        monkeypatch.delenv(name)

    def run(notebook: nbformat.NotebookNode) -> None:
        place = {"metadata": {"path": REPO / "notebooks"}}
        NotebookClient(notebook, timeout=int(PATIENCE), kernel_name="python3", resources=place).execute()

    return run


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_runs", "explore_data", "inside_emisnet"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_holds_no_path_of_a_machine(path: Path) -> None:
    notebook, text = nbformat.read(path, as_version=4), path.read_text()
    nbformat.validate(notebook)
    code = code_of(notebook)
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"} and not any(c.metadata for c in notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(f"{quote}/{name}/" in text for quote in "\"'" for name in ("home", "root", "work", "Users"))
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"  # so that a diff shows what changed


@pytest.mark.parametrize("folder", [REPO, REPO / "notebooks"], ids=["repository", "notebooks"])
def test_the_first_cell_finds_the_repository(folder: Path) -> None:
    for path in NOTEBOOKS:
        first = code_of(nbformat.read(path, as_version=4))[0].source
        code = f"{first}\nimport src.files; print(os.getcwd())"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(REPO)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, execute, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem in READS_A_RUN:
        monkeypatch.setenv(READS_A_RUN[path.stem], str(trained_run))
    monkeypatch.setenv("EMISNET_NOTEBOOK_DATA", FEWER_IMAGES)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(sys.executable)"))
    execute(notebook)
    *cells, last = code_of(notebook)
    assert last.outputs[0].text.strip() == sys.executable
    assert not [child for child in psutil.Process().children(recursive=True) if "ipykernel_launcher" in child.cmdline()]
    outputs = [out for cell in cells for out in cell.outputs]
    assert sum("image/png" in out.get("data", ()) for out in outputs) >= 3
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []  # nothing warns
    shown = [out.data for out in outputs if out.output_type == "execute_result"]
    assert [data for data in shown if "text/markdown" not in data] == []  # no list of axes under a figure
    if folder := os.environ.get("SHOW_NOTEBOOKS"):  # to look at them: SHOW_NOTEBOOKS=folder pytest ...
        nbformat.write(notebook, Path(folder) / path.name)


def test_without_a_run_the_network_is_initialised(execute) -> None:
    notebook = nbformat.read(REPO / "notebooks" / "inside_emisnet.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("cell01", "cell02", "cell12")]
    notebook.cells.append(nbformat.v4.new_code_cell("print(RUN == '' and net.training is False and segmenter is None)"))
    execute(notebook)
    assert notebook.cells[-1].outputs[0].text == "True\n"
