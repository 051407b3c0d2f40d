"""Files of weights: training checkpoints, safetensors, and the SHA-256 that lies beside a file that is handed on."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from src.files import replacing, write_text


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint, tensors and plain values only. ValueError names a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # torch.load would unpickle it, and a text file end in an IndexError
                raise pickle.UnpicklingError("cut short, or not written by torch.save")
            with zipfile.ZipFile(file) as archive:  # torch does not look at the check sums: a flipped bit would load
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):  # a bomb may be
                    raise pickle.UnpicklingError("compressed, which torch.save does not do")
                if damaged := archive.testzip():
                    raise pickle.UnpicklingError(f"the check sum of {damaged} in it is wrong")
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__}: {error}).") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a readable checkpoint (it holds a {type(checkpoint).__name__}, not a dict).")
    if absent := {"epoch", "state_dict"} - checkpoint.keys():
        raise ValueError(f"{path} is not a readable checkpoint (it has no {' and no '.join(sorted(absent))}).")
    return checkpoint


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The network's weights by name, of a training checkpoint (with EMA the averaged ones) or of `write_safetensors`.

    Raises ValueError for a file that cannot be read, or that is not what its checksum says.
    """
    if Path(path).suffix == ".safetensors":
        check_sha256(path)
        try:
            return load(Path(path).read_bytes())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error}).") from error
    state = read_checkpoint(path)["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} is not a readable checkpoint (its state_dict holds other than tensors by name).")
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def read_weights(path: str | Path, net: nn.Module) -> nn.Module:
    """Puts the weights of `read_state` into `net`; ValueError also for those of another network."""
    try:
        net.load_state_dict(read_state(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds the weights of another network: {str(error).splitlines()[1].strip()}"
        ) from error
    return net


def start_from(path: str | Path, net: nn.Module) -> list[str]:
    """Puts those weights of `read_state` into `net` whose name and shape it has; returns the names of its own that stay
    as they were. ValueError as `read_state`, and where less than half of its parameters would be filled."""
    own = net.state_dict()
    fitting = {
        name: value for name, value in read_state(path).items() if name in own and own[name].shape == value.shape
    }
    filled = sum(parameter.numel() for name, parameter in net.named_parameters() if name in fitting)
    total = sum(parameter.numel() for parameter in net.parameters())
    if 2 * filled < total:
        raise ValueError(
            f"{path} is of another network: {filled} of this one's {total} parameters have a counterpart of the same "
            "name and shape there, and half is the least. Give its model= and widths, or leave out init."
        )
    net.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def write_safetensors(net: nn.Module, path: Path) -> None:
    """All parameters and buffers of `net`, with the checksum beside them."""
    with replacing(path) as file:
        file.write(save({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}))
    write_sha256(path)


# ---- checksums


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_path(path: str | Path) -> Path:
    """Where the checksum of a file lies: `<file>.sha256`, as `sha256sum -c` reads it."""
    return Path(f"{path}.sha256")


def write_sha256(path: Path) -> None:
    write_text(checksum_path(path), f"{sha256(path)}  {path.name}\n")


def check_sha256(path: str | Path) -> bool:
    """Whether there is a checksum beside the file, which then is right. ValueError if it is not that of the file."""
    beside = checksum_path(path)
    if not beside.is_file():
        return False
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    try:
        found = sha256(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
    if not words or words[0] != found:
        raise ValueError(
            f"{path} is not the file that {beside.name} was written for: SHA-256 {found[:12]}..., expected "
            f"{words[0][:12] if words else 'one'}.... It is damaged or was replaced: fetch or export it again, or "
            f"remove {beside.name} if you trust it."
        )
    return True
