"""Export a trained network (ONNX, int8, torch.export, ExecuTorch, a bundle), each file compared with the run.

python -m src.export run=runs/...                                    # model.onnx and a bundle, in <run>/export
python -m src.export run=runs/... formats=[onnx,onnx_int8,pt2]
python -m src.export run=runs/... data=kvasir_seg data.root=...      # the run's images lie elsewhere here
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from src.cli import ConfigError, did_you_mean, entry_point
from src.config import check_number, check_switches, listed, plain, user_errors
from src.trusted import check_targets

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import numpy as np

    from src.exporting.parity import Candidate, Parity
    from src.subject import Subject
    from src.trained import Trained

SETTINGS = (
    *("out", "name", "overwrite", "dynamic", "images", "calibration", "threads", "seconds"),
    *("tolerance", "tolerance_int8"),
)
FASTER = 0.95  # of float32's time, from which on int8 is called faster


@dataclass
class Exported:
    """`files` by format; `parity`: how they compare with the run."""

    out: Path
    files: dict[str, Path]
    parity: "Parity"


def export_run(
    source: str | Path,
    *,
    formats: Sequence[str] = ("onnx", "bundle"),
    out: str | Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    dynamic: bool = True,
    data: Mapping[str, Any] | None = None,
    images: int = 32,
    calibration: int = 64,
    tolerance: float = 1e-4,
    tolerance_int8: float = 0.01,
    threads: Sequence[int | None] = (1, None),
    seconds: float = 5.0,
) -> Exported:
    """Writes `formats` of the weights that `src.trained` opens at `source` into `out`, parity.md and parity.json too.

    `data` is a config of where to look for images instead, as in `src.evaluate`; `images` of val are compared, and
    `calibration` train images set the ranges of int8. Times are medians over `seconds` for each of `threads` (None:
    torch's choice). `name` is what the files call themselves, and the bundle's folder; by default the run's.

    Raises:
        ValueError: nothing that can be exported, an unknown format, a file that is there already, absent images.
    """
    from src.exporting.bundle import check_bundle
    from src.exporting.formats import path_of, write_formats
    from src.exporting.parity import markdown
    from src.files import write_json, write_text
    from src.trained import open_trained

    _check(formats, images=images, calibration=calibration, seconds=seconds, threads=threads)
    for key, value in (("tolerance", tolerance), ("tolerance_int8", tolerance_int8)):
        check_number({key: value}, key, -math.inf, whole=False)
    trained = open_trained(source)
    if trained.run is None:
        raise ValueError(f"{source} is an exported file already. Export the run that it was made of.")
    if name is not None:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"name={name!r} must be a plain name, of a folder: no path.")
        trained = replace(trained, name=name)
    assert trained.run is not None
    folder = Path(out) if out else trained.run.path / "export"
    files = {kind: path_of(kind, folder, trained) for kind in dict.fromkeys(formats)}
    if not overwrite and (there := [str(path) for path in files.values() if path.exists()]):
        raise ValueError(f"{', '.join(there)}: there already. Choose another out=..., or replace it: overwrite=true.")
    if "bundle" in files:
        _check_place(files["bundle"], trained)
        _check_best(trained, source)
        check_bundle(trained)
    subject = _subject(trained, data)
    shown = _shown(trained, subject, calibration) if "onnx_int8" in files else []
    candidates = write_formats(
        trained, files, dynamic=dynamic, shown=shown, tolerance=tolerance, tolerance_int8=tolerance_int8
    )
    parity = _parity(trained, candidates, subject, images, threads, seconds)
    against = f"{subject.source.dataset}, {', '.join(subject.parts)}"
    write_text(folder / "parity.md", markdown(parity, trained.name, against))
    write_json(folder / "parity.json", {"name": trained.name, "against": against, **parity.to_json()})
    return Exported(folder, files, parity)


# ---- the steps of export_run


def _check(formats: Sequence[str], *, seconds: float, threads: Sequence[int | None], **counts: int) -> None:
    from src.exporting.formats import FORMATS

    if not formats:
        raise ValueError(f"formats=[]: nothing to write. Possible: {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            possible = ", ".join(FORMATS)
            raise ValueError(f"formats: there is no {name!r}. {did_you_mean(name, FORMATS)} Possible: {possible}.")
    for key, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{key}={count} is not possible; it is a number of images, from 1 up.")
    if (
        not isinstance(threads, list | tuple)
        or not threads
        or any(n is not None and (not isinstance(n, int) or n < 1) for n in threads)
    ):
        raise ValueError(f"threads={threads} is not possible; it is a list of whole numbers from 1 up, or null.")
    if isinstance(seconds, bool | str) or seconds < 0:
        raise ValueError(f"seconds={seconds} is not possible; it is a number from 0 up.")
    if any(name.startswith("onnx") for name in formats):
        _require("engines", "onnx", "onnxscript", "onnxruntime")
    if "executorch" in formats:
        _require("executorch", "executorch")


def _require(extra: str, *packages: str) -> None:
    from importlib.util import find_spec

    if absent := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"This format needs {', '.join(absent)}, not installed here: the extra `{extra}` brings it.")


def _check_place(folder: Path, trained: "Trained") -> None:
    """A bundle replaces what stands in its place: that may be a bundle, and nothing else."""
    from src.rundir import RunDir

    assert trained.run is not None
    mine = folder.resolve() in (trained.run.path.resolve(), *trained.run.path.resolve().parents)
    if mine or (folder.exists() and RunDir(folder).weights == RunDir(folder).best):
        raise ValueError(f"{folder} is no bundle, and would be replaced by one. Choose another out=...")


def _check_best(trained: "Trained", source: str | Path) -> None:
    """A bundle holds scores: those of the best weights, so other weights of the same run may not go with them."""
    assert trained.run is not None
    path = Path(source)
    if path.is_file() and path.resolve() != trained.run.weights.resolve():
        raise ValueError(
            f"{path} is not what the scores of {trained.run.path} are of, which a bundle holds: that is "
            f"{trained.run.weights.name}. Give the run directory, or leave bundle out (formats=[onnx])."
        )


def _subject(trained: "Trained", data: Mapping[str, Any] | None) -> "Subject":
    """The images that are compared: the run's val, or all of other data."""
    from src.subject import subject_of

    assert trained.run is not None
    try:
        return subject_of(trained.run, data, ["val"])
    except ValueError as error:
        raise ValueError(
            f"{error}\nExported files are compared with the run on its val images. Say where they are: data.root=... "
            "with the group, such as data=kvasir_seg data.root=my/kvasir_seg; or data=synthetic compares on generated "
            "images."
        ) from error


def _shown(trained: "Trained", subject: "Subject", number: int) -> "list[np.ndarray]":
    """What the network is shown of `number` train images, spread evenly: (1, C, H, W) each, by the Segmenter itself."""
    from src.exporting.seen import seen_by
    from src.subject import own_source

    assert trained.run is not None
    source = own_source(trained.run) if subject.foreign else subject.source
    try:
        ids = source.require("train")
    except ValueError as error:
        raise ValueError(f"{error}\nint8 is calibrated on the run's own train images; leave onnx_int8 out.") from error
    return [seen.numpy() for seen in seen_by(trained, (source.load(id_)[0] for id_ in spread(ids, number)))]


def spread(ids: Sequence[str], number: int) -> list[str]:
    """At most `number` of them, evenly."""
    return [ids[i * len(ids) // number] for i in range(number)] if number < len(ids) else list(ids)


def _parity(
    trained: "Trained",
    candidates: "Sequence[Candidate]",
    subject: "Subject",
    images: int,
    threads: Sequence[int | None],
    seconds: float,
) -> "Parity":
    from src.build import TORCHS_CHOICE
    from src.exporting.parity import Parity, compare, time_all
    from src.provenance import provenance

    ids = spread([id_ for part in subject.parts.values() for id_ in part], images)
    rows = compare(candidates, ids, subject.source.load)
    numbers = list(dict.fromkeys(n or TORCHS_CHOICE for n in threads))
    commit = provenance()["commit"]
    conditions, doubts = time_all(
        candidates, rows, threads=numbers, seconds=seconds, size=max(trained.size), commit=commit
    )
    _tell_of_int8(rows)
    return Parity(rows, len(ids), conditions, doubts)


def _tell_of_int8(rows: Sequence[dict[str, Any]]) -> None:
    """Where it is not faster than float32 it is of no use but for its size, and the report says so."""
    by_name = {row["what"]: row for row in rows}
    if "onnx_int8" not in by_name:
        return
    float32 = by_name.get("onnx", rows[1])  # else PyTorch, folded
    row = by_name["onnx_int8"]
    for threads, taken in row["latency_ms"].items():
        other = float32["latency_ms"][threads]
        if taken > FASTER * other:
            row["notes"].append(
                f"not faster than float32 on {threads} thread{'s' if threads != '1' else ''}: {taken:.3g} ms against "
                f"{other:.3g} ms of {float32['what']}"
            )


def _run(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give its directory: python -m src.export run=runs/...")
    with user_errors():
        config = plain(cfg)
        check_switches(config, "overwrite", "dynamic")
        check_targets(config.get("data") or {}, "data")
        settings = {key: config[key] for key in SETTINGS}
        exported = export_run(cfg.run, formats=listed(cfg, "formats"), data=config.get("data"), **settings)
    print((exported.out / "parity.md").read_text(encoding="utf-8"))
    print("\n".join(f"{name}: {path}" for name, path in exported.files.items()))
    print(f"this table: {exported.out / 'parity.md'}")
    for doubt in exported.parity.doubts:
        print(f"warning: do not use these times: {doubt}", file=sys.stderr)
    if not exported.parity.passed:
        print("error: a file computes something else than the run, beyond the tolerance.", file=sys.stderr)
        raise SystemExit(1)


main = entry_point("export", _run)

if __name__ == "__main__":
    main()
