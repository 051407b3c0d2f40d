"""The datasets: each says where its pairs are and how its masks read. A new one needs no more than that."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from src.data.datamodule import SegmentationDataModule
from src.data.decode import checked_intensity
from src.data.foreground import checked_rule
from src.data.groups import glas_patients, read_groups
from src.data.pairs import Pair, folder_pairs, glas_pairs, isic2018_pairs, isic2018_parts, kvasir_seg_pairs
from src.data.splits import KFOLD, Split, holdout, isic2018_official
from src.data.synthetic import KINDS, generate

MOST_GENERATED, LARGEST_GENERATED = 1_000_000, 8192  # images of a part, px of a side: more does not fit into memory
ONE_LABEL_IDS = ("testB_3", "testB_11", "testB_18", "testB_19")  # of GlaS: one label for all glands in the release


class KvasirSEG(SegmentationDataModule):
    """Kvasir-SEG (Jha et al., MMM 2020): 1000 polyps. JPEG masks with lossy edges, cut at 127."""

    dataset = "kvasir_seg"
    foreground = "threshold"

    def find_pairs(self) -> dict[str, Pair]:
        return kvasir_seg_pairs(self.root)


class ISIC2018(SegmentationDataModule):
    """ISIC 2018 task 1 (Codella et al., arXiv:1902.03368): skin lesions. `official` is the archive's folders."""

    dataset = "isic2018"
    foreground = "binary"
    metrics = ("overlap", "boundary", "isic")

    def find_pairs(self) -> dict[str, Pair]:
        if not isic2018_parts(self.root):
            self.caveat = (
                "ISIC 2018 in the plain layout: if these are resized, centre-cropped copies and not the archive's full "
                "frames, scores on them do not compare with papers"
            )
        return isic2018_pairs(self.root)

    def make_split(self) -> Split:
        if self.split_name == "official":
            _ = self.pairs  # where there is nothing at all, that error says how to get it
            return isic2018_official(isic2018_parts(self.root))
        return super().make_split()


class GlaS(SegmentationDataModule):
    """GlaS (MICCAI 2015): glands, masks as instance label maps; testA and testB are reported apart."""

    dataset = "glas"
    foreground = "instances"
    metrics = ("overlap", "boundary", "objects")
    spacing, unit = (0.62005, 0.62005), "um"

    def find_pairs(self) -> dict[str, Pair]:
        return glas_pairs(self.root)

    def groups(self) -> dict[str, str]:
        return glas_patients(self.root)

    def load_labels(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        image, labels = super().load_labels(sample_id)
        if sample_id in ONE_LABEL_IDS and len(np.unique(labels[labels > 0])) == 1:
            labels = ndimage.label(labels)[0]
        return image, labels


class Folder(SegmentationDataModule):
    """Any tree of `images` and `masks`, paired by stem; split by a seeded hold-out over the ids.

    `mask` says how masks read: auto, binary ({0,1} or {0,255}), threshold (> 127), instances (> 0), or a mapping of
    every stored value to 0 or 1. `groups` is a CSV with the columns id and group (patient): no split tears a group.
    `intensity` is the range (low, high) of 16-bit grey images that becomes 0..255.
    """

    dataset = "folder"

    def __init__(
        self,
        *,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        mask: str | Mapping[Any, int] = "auto",
        intensity: Sequence[float] | None = None,
        val: float = 0.1,
        test: float = 0.1,
        split: str = "holdout",
        split_seed: int = 0,
        groups: str | None = None,
        **common: Any,  # the base's arguments, checked there
    ):
        super().__init__(split=split, **common)
        if split not in ("holdout", KFOLD):
            raise ValueError(f"data.split={split}: a folder has no committed splits. Possible: holdout, {KFOLD}.")
        self.foreground = checked_rule(mask)
        self.intensity = None if intensity is None else checked_intensity(intensity)
        self.folders = {"images": images, "masks": masks, "mask_suffix": mask_suffix}
        self.groups_file, self.fold_seed = groups, split_seed
        self.fractions: dict[str, Any] = {"val": val, "test": test, "seed": split_seed}

    def find_pairs(self) -> dict[str, Pair]:
        return folder_pairs(self.root, **self.folders)

    def groups(self) -> dict[str, str]:
        return read_groups(self.groups_file, self.pairs) if self.groups_file else {}

    def make_split(self) -> Split:
        return holdout(self.pairs, name=self.split_name, dataset=self.dataset, groups=self.groups(), **self.fractions)


class Synthetic(SegmentationDataModule):
    """Generated images that look like the task, made in memory: the default, so that nothing needs downloading.

    `kinds` are drawn in turn; `counts` are the images of train, val and test; `native_size` is (H, W). With
    split=kfold all of them are drawn into folds instead.
    """

    dataset = "synthetic"
    on_disk = False

    def __init__(
        self,
        *,
        split: str | None = None,
        kinds: Sequence[str] = KINDS,
        counts: Sequence[int] = (240, 60, 60),
        native_size: tuple[int, int] = (160, 192),
        data_seed: int = 0,
        **common: Any,  # the base's arguments, checked there
    ):
        if split is None:  # as earlier runs say it
            split = "generated" if common.get("fold") is None else KFOLD
        if split not in ("generated", KFOLD):
            raise ValueError(f"data.split={split}: generated images have no such split. Possible: generated, {KFOLD}.")
        super().__init__(root="(generated)", split=split, **common)
        if wrong := set(kinds) - set(KINDS):
            raise ValueError(f"data.kinds={sorted(wrong)} cannot be generated. Possible: {', '.join(KINDS)}.")
        for name, values, most in (("counts", counts, MOST_GENERATED), ("native_size", native_size, LARGEST_GENERATED)):
            if max(values) > most:
                raise ValueError(f"data.{name}={list(values)} is too much to be generated in memory: at most {most}.")
        self.kinds, self.counts = tuple(kinds), tuple(counts)
        self.native_size = (native_size[0], native_size[1])
        self.data_seed = data_seed
        self._made: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def ids_to_fold(self) -> list[str]:
        return [f"{self.kinds[i % len(self.kinds)]}_{i:05d}" for i in range(sum(self.counts))]

    def ids_on_disk(self) -> set[str]:
        return set(self.ids_to_fold())

    def areas(self, ids: Sequence[str]) -> dict[str, float]:
        return {id_: float(self.load(id_)[1].mean()) for id_ in ids}

    def make_split(self) -> Split:
        ids = self.ids_to_fold()
        train, val, _ = self.counts
        parts = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
        return Split(self.split_name, self.dataset, {part: tuple(members) for part, members in parts.items()})

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        if sample_id not in self._made:
            kind, number = sample_id.split("_")
            image, labels = generate(kind, int(number), size=self.native_size, seed=self.data_seed)
            self._made[sample_id] = image, (labels > 0).astype(np.uint8)
        return self._made[sample_id]
