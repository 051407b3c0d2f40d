"""The official archives of the datasets: where they are, what to tell a user who lacks them, and getting them.

A downloaded archive is deleted once it is unpacked; one that the user put into the dataset's folder is not.
"""

from contextlib import suppress
from pathlib import Path
from typing import IO

from src.data.archives import extract, readable, require_space
from src.data.download import DOWNLOADS, Archive, Partial, fetch, say, size_of
from src.data.pairs import GLAS_ARCHIVE, ISIC2018_PARTS, KVASIR_SEG_ARCHIVE
from src.files import lock


def _isic2018(stem: str, checksum: str, about_bytes: int) -> Archive:
    url = f"https://isic-challenge-data.s3.amazonaws.com/2018/{stem}.zip"
    split = None if "_Training_" in stem else "official"
    return Archive(f"{stem}.zip", url, about_bytes, f"sha256:{checksum}", stem, split=split)


_TRAINING, _VALIDATION, _TEST = (ISIC2018_PARTS[part] for part in ("train", "val", "test"))
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "kvasir_seg": (
        Archive(
            name="kvasir-seg.zip",
            url="https://datasets.simula.no/downloads/kvasir-seg.zip",
            about_bytes=46_000_000,
            checksum="sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
            provides=KVASIR_SEG_ARCHIVE,
        ),
    ),
    "isic2018": (
        _isic2018(
            f"ISIC2018_Task1-2_{_TRAINING}_Input",
            "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
            10_400_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_TRAINING}_GroundTruth",
            "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
            26_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1-2_{_VALIDATION}_Input",
            "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
            228_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_VALIDATION}_GroundTruth",
            "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
            1_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1-2_{_TEST}_Input",
            "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
            2_200_000_000,
        ),
        _isic2018(
            f"ISIC2018_Task1_{_TEST}_GroundTruth",
            "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
            9_000_000,
        ),
    ),
    "glas": (
        Archive(
            name="warwick_qu_dataset_released_2016_07_08.zip",
            url="https://warwick.ac.uk/fac/sci/dcs/research/tia/glascontest/download/"
            "warwick_qu_dataset_released_2016_07_08.zip",
            about_bytes=173_000_000,
            checksum="md5:495b2a9f3d694545fbec06673fb3f40f",
            provides=GLAS_ARCHIVE,
            login=True,
        ),
    ),
}


# ---- a dataset


def how_to_get(dataset: str, root: str | Path, split: str) -> str:
    """What to do about a dataset that is not there; "" if nothing of it is missing or none of it is published."""
    root, absent = _absent(dataset, Path(root), split)
    if not absent:
        return ""
    cost = readable(sum(archive.about_bytes for archive in absent))
    files = "".join(f"\n      {archive.url} (unpacks to {root / archive.provides})" for archive in absent)
    login = "".join(
        f"\n  The site may ask for a login. Then download it in a browser, put it as {root / archive.name}, and "
        "data.download=true checks and unpacks it."
        for archive in absent
        if archive.login
    )
    return (
        f"Two ways to get {dataset}:\n"
        f"  data.download=true fetches it, about {cost}, into {root} and unpacks it there; have twice that free.\n"
        f"  By hand: download into {root} and unpack there{files}{login}"
    )


def ensure(dataset: str, root: str | Path, split: str) -> None:
    """Makes the official archive folders that `split` needs be there: downloads, checks and unpacks what is absent.

    Nothing is done where a plain images/ folder is. One process at a time; others wait, then find it done.

    Raises:
        ValueError: the dataset has no archives; an archive that is not the published one, or not what it should hold.
        OSError: no room on the disk; as DownloadError, no way to get the archive.
    """
    if dataset not in ARCHIVES:
        raise ValueError(
            f"data.download=true: there is nothing to download for data={dataset}. Possible: {', '.join(ARCHIVES)}. "
            "Leave the option out"
        )
    home, absent = _absent(dataset, Path(root), split)
    if not absent and not (home / DOWNLOADS).is_dir():
        return
    with _locked(home / ".download.lock"):
        _sweep(dataset, home)
        _, absent = _absent(dataset, home, split)  # another process may have brought it
        _require_space_for(absent, home)
        for archive in absent:
            file = fetch(archive, home)
            say(f"unpacking {file} into {home}")
            extract(file, home)
            if not (home / archive.provides).is_dir():
                raise ValueError(f"{file} was unpacked into {home}, but it held no folder {archive.provides!r}")
            _sweep(dataset, home)


def _absent(dataset: str, root: Path, split: str) -> tuple[Path, list[Archive]]:
    """The folder that archives unpack into, and those needed for `split` that are not there."""
    archives = [archive for archive in ARCHIVES.get(dataset, ()) if archive.split in (None, split)]
    if root.name in {archive.provides for archive in archives}:
        root = root.parent  # data.root may name the unpacked folder itself
    if (root / "images").is_dir():
        return root, []
    return root, [archive for archive in archives if not (root / archive.provides).is_dir()]


def _require_space_for(archives: list[Archive], root: Path) -> None:
    """All that is unpacked, about as large as it is packed, and beside it one archive at a time."""
    if archives:
        unpacked = sum(archive.about_bytes for archive in archives)
        packed = max(archive.about_bytes - _bytes_there(archive, root) for archive in archives)
        require_space(root, unpacked + max(0, packed), "downloading and unpacking")


def _bytes_there(archive: Archive, root: Path) -> int:
    ours = root / DOWNLOADS / archive.name
    return max(size_of(file) for file in (root / archive.name, ours, Partial(ours, archive.url).file))


def _sweep(dataset: str, root: Path) -> None:
    """Deletes what we downloaded of archives that are unpacked by now; a killed run left it, or it just served."""
    downloads = root / DOWNLOADS
    for archive in ARCHIVES[dataset]:
        if (root / archive.provides).is_dir():
            (downloads / archive.name).unlink(missing_ok=True)
            Partial(downloads / archive.name, archive.url).forget()
    with suppress(OSError):  # absent, or it holds what another split needs
        downloads.rmdir()


def _locked(path: Path) -> IO[str]:
    try:
        return lock(path, wait=False)
    except BlockingIOError:
        say(f"waiting for another process that downloads into {path.parent}")
        return lock(path)
