"""SegmentationTask, the only LightningModule: a network, a loss, an optimizer and a schedule become a training run."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from src.distillation import Teacher, distillation_loss
from src.inference import channel_stats, normalize
from src.metrics.overlap import NAMES, POOLED, Overlap, confusion, scores

METRICS = ("train/loss", "train/dice", "val/loss", *(f"val/{name}" for name in NAMES + POOLED))


class SegmentationTask(pl.LightningModule):
    """Trains `net` on batches of uint8 images and masks; scores at training size, threshold 0.5, per image.

    `val/*` are means over images at training size: they select and steer, and never stand in a table. Scores at native
    size come from `src.evaluate`. Over several devices they are those of all images, each counted once, and of the
    weights and running statistics that rank 0 saves: every rank selects by the same numbers.

    Args:
        net: image (B, C, H, W) -> logits (B, 1, H, W), or a list of them in training with deep supervision.
        loss: (logits, target) -> scalar.
        optimizer: parameter groups -> optimizer; its weight decay, if any, spares biases and norms.
        scheduler: (optimizer, total_steps) -> scheduler, stepped every optimizer step.
        train_batches: batches of one epoch, the same number in every process.
        mean, std: of the normalisation, per channel, of values in 0..1.
        channels_last: memory format of net and images.
        teacher, teacher_weight: in training the loss is (1 - weight) loss(logits, mask) + weight BCE(logits, teacher).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        train_batches: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
        teacher: Teacher | None = None,
        teacher_weight: float = 0.5,
    ):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self.loss, self.optimizer, self.scheduler = loss, optimizer, scheduler
        self.train_batches = train_batches
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.val_overlap, self.val_loss = Overlap(), MeanMetric()
        self.register_buffer("mean", channel_stats(mean), persistent=False)
        self.register_buffer("std", channel_stats(std), persistent=False)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """uint8 images (B, C, H, W) -> logits."""
        normal = normalize(image, self.mean, self.std)
        return self.net(normal.contiguous(memory_format=self.memory_format))

    def _step(self, batch: dict[str, Any], split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, boolean prediction and boolean target of a batch."""
        logits = self(batch["image"])
        loss = self.loss(logits, batch["mask"])
        if self.teacher and split == "train":
            learned = distillation_loss(logits, self.teacher(batch["image"]))
            loss = (1 - self.teacher_weight) * loss + self.teacher_weight * learned
        if not torch.isfinite(loss):
            kept = "The last checkpoint is from before it. " if self.current_epoch else ""
            raise FloatingPointError(
                f"the {split} loss is {loss.item()} in epoch {self.current_epoch}, images {', '.join(batch['id'])}. "
                f"{kept}Lower optim.lr, use trainer.precision=32-true, or look at those images."
            )
        main = logits if isinstance(logits, Tensor) else logits[0]
        return loss, main.detach() > 0, batch["mask"] > 0  # logit 0 is probability 0.5

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss, pred, target = self._step(batch, "train")
        dice = scores(confusion(pred, target))["dice"].float()
        # every rank has batches of the same sizes, so that sync_dist, which averages ranks, averages images
        how: dict[str, Any] = {"on_epoch": True, "sync_dist": True, "batch_size": len(dice)}
        self.log("train/loss", loss, on_step=True, prog_bar=True, **how)
        self.log("train/dice", dice.mean(), on_step=False, **how)
        return loss

    def on_validation_epoch_start(self) -> None:
        """All ranks take rank 0's running statistics: it saves them, and each has gathered its own since the last step.

        After the callbacks of the same name, which put averaged weights in place (`ema`).
        """
        if self.trainer.world_size > 1:
            for buffer in self.net.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss, pred, target = self._step(batch, "val")
        self.val_overlap.update(pred, target)
        self.val_loss.update(loss.detach(), weight=len(pred))

    def on_validation_epoch_end(self) -> None:
        """Logs what torchmetrics gathered: ranks have unequal numbers of batches, which sync_dist would not weigh."""
        self._check_every_image_counted()
        values = {name: value.float() for name, value in self.val_overlap.compute().items()}
        self.log("val/loss", self.val_loss.compute())
        self.log("val/dice", values.pop("dice"), prog_bar=True)
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        self.val_overlap.reset()
        self.val_loss.reset()

    def _check_every_image_counted(self) -> None:
        counted = int(self.trainer.strategy.reduce(self.val_overlap.images.clone(), reduce_op="sum"))
        loader = self.trainer.val_dataloaders
        assert loader is not None
        images = len(loader.dataset)
        if counted != images and self.trainer.limit_val_batches == 1.0:
            raise RuntimeError(
                f"validation counted {counted} images, but there are {images}: the loaders share them badly."
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        decay = getattr(self.optimizer, "keywords", {}).get("weight_decay", 0.0)
        optimizer = self.optimizer(param_groups_weight_decay(self.net, weight_decay=decay))
        scheduler = self.scheduler(optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_steps(self) -> int:
        """Optimizer steps of the whole training.

        Not `trainer.estimated_stepping_batches`: that builds the loader and its iterator, which in a resumed run is
        before the trainer knows its epoch, and the first resumed epoch would see epoch 0's order.
        """
        batches, limit = self.train_batches, self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps = -(-batches // self.trainer.accumulate_grad_batches) * (self.trainer.max_epochs or 1)
        return min(steps, self.trainer.max_steps) if self.trainer.max_steps > 0 else steps
