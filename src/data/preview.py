"""What training sees: a sheet of augmented samples with the outlines of their masks, for each crop mode.

python -m src.data.preview data=kvasir_seg
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.cli import entry_point
from src.config import plain, user_errors
from src.trusted import check_targets

if TYPE_CHECKING:
    from src.data.datamodule import SegmentationDataModule


def preview(source: "SegmentationDataModule", path: Path, *, samples: int = 4, draws: int = 6) -> Path:
    """Writes one row for each of the first `samples` training images: as it is, then as the first epochs draw it.

    `source.crop` is the crop mode. ValueError: training images are absent, or cannot be read.
    """
    import matplotlib.pyplot as plt

    from src.data.samples import SampleDataset
    from src.figures import TRUTH, outline, save_figure

    ids = source.require("train")[:samples]
    drawn = SampleDataset(source, ids, training=True)
    figure, axes = plt.subplots(
        len(ids), draws + 1, figsize=(1.8 * (draws + 1), 1.95 * len(ids)), layout="constrained", squeeze=False
    )
    for row, sample_id in enumerate(ids):
        image, mask = source.load(sample_id)
        tiles = [(sample_id, outline(image, mask, TRUTH, width=max(1, max(mask.shape) // 128)))]
        for epoch in range(draws):
            sample = drawn[epoch, row]
            picture = sample["image"].transpose(1, 2, 0).copy()
            tiles.append((f"epoch {epoch}", outline(picture, sample["mask"][0], TRUTH, width=1)))
        for axis, (title, picture) in zip(axes[row], tiles, strict=True):
            axis.imshow(picture)
            axis.set_title(title[-27:], fontsize=7)
            axis.axis("off")
    height, width = source.size
    figure.suptitle(f"{source.dataset}, data.crop={source.crop}, {height}x{width}: mask green; left the native image")
    save_figure(figure, path, dpi=130)
    return path


def _run(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from src.data.transforms import CROPS

    config: dict[str, Any] = plain(cfg)
    with user_errors():
        check_targets(config)
        for crop in CROPS:
            # no cache: a few images are shown, and all would be decoded for it
            source = instantiate({**config["data"], "crop": crop, "cache": None})
            path = Path(config["out"]) / f"{source.dataset}_{crop}.png"
            print(preview(source, path, samples=config["samples"], draws=config["draws"]))


main = entry_point("preview", _run)

if __name__ == "__main__":
    main()
