"""Fields of networks whose fields are known by hand, and of EMIS-Net against pixels that are changed row by row."""

import pytest
import torch
from torch import Tensor, nn

from src.models.emisnet import EMISNet
from src.models.receptive_field import (
    FAINT,
    effective_receptive_field,
    effective_side,
    extent,
    theoretical_receptive_field,
)

from .nets import seeded

SMALL = {"channels": (3, 3), "encoder_depths": (1, 1), "decoder_depths": (1,), "icm_levels": (1,), "attention": False}
REAL = {"context_kernel_size": 3, "fusion_kernel_size": 3, "context_dilation": 3, "fusion_dilations": (1, 2)}


def conv(kernel: int, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(1, 1, kernel, padding=dilation * (kernel // 2), dilation=dilation, stride=stride)


@pytest.mark.parametrize(
    ("net", "side"),
    [
        (conv(1, dilation=7), 1),
        (conv(3), 3),
        (conv(3, dilation=3), 7),
        (conv(3, dilation=7), 15),
        (nn.Sequential(conv(3), conv(3)), 5),
        (nn.Sequential(conv(3, stride=2), conv(3)), 7),  # 3 + 2 * (3 - 1)
        (nn.Sequential(nn.MaxPool2d(2), conv(3)), 6),  # 2 + 2 * (3 - 1)
        (nn.Sequential(conv(3), nn.BatchNorm2d(1), nn.GELU(), nn.MaxPool2d(2), conv(3)), 8),
    ],
    ids=str,
)
def test_the_theoretical_field_is_that_of_the_formula(net: nn.Module, side: int) -> None:
    assert extent(theoretical_receptive_field(net, (1, 1, 64, 48))) == (side, side)


def test_rates_leave_holes_and_cancelling_weights_count_nevertheless() -> None:
    reached = theoretical_receptive_field(conv(3, dilation=3), (1, 1, 32, 32))
    assert int(reached.sum()) == 9 and extent(reached) == (7, 7)
    silent = nn.Sequential(conv(3), conv(1))
    nn.init.zeros_(silent[1].weight)
    assert extent(theoretical_receptive_field(silent, (1, 1, 32, 32))) == (3, 3)
    assert not silent[1].weight.any()  # a copy was changed


def rows_that_matter(net: EMISNet, rows: int, trials: int) -> list[int]:
    """Rows of the input whose change moves the centre pixel of the output in any of the trials."""
    net, random = net.double().eval(), torch.Generator().manual_seed(0)
    found = set()
    with torch.inference_mode():
        for _ in range(trials):
            image = torch.randn(1, 3, rows, 32, dtype=torch.float64, generator=random)
            changed = image.repeat(rows, 1, 1, 1)
            for row in range(rows):
                changed[row, :, row] += 5 * torch.rand(3, 32, dtype=torch.float64, generator=random)
            before, after = (net(x)[:, 0, rows // 2, 16] for x in (image.repeat(rows, 1, 1, 1), changed))
            found |= set((after != before).nonzero().flatten().tolist())
    return sorted(found)


@pytest.mark.parametrize("options", [{}, REAL], ids=["published", "real kernels"])
def test_emisnets_theoretical_field_is_the_rows_that_move_its_output(options: dict) -> None:
    net = seeded(**SMALL, **options)
    reached = theoretical_receptive_field(net, (1, 3, 40, 32)).any(1).nonzero().flatten().tolist()
    assert len(reached) < 40  # else the image were too small to tell
    assert rows_that_matter(net, 40, trials=16) == reached  # pooling hides the outermost rows from most images


def test_the_published_context_branch_adds_nothing_and_coordinate_attention_everything() -> None:
    def rows(**options: object) -> int:
        options = {"channels": (2,) * 5, "attention": False} | options
        return extent(theoretical_receptive_field(seeded(**options), (1, 3, 1024, 32)))[0]

    assert rows() == rows(context_dilation=1) == rows(context=False) < rows(context_kernel_size=3) < 1024
    assert rows(attention=True) == 1024


def test_the_effective_field_of_a_convolution_is_its_kernel() -> None:
    net = conv(3)
    field = effective_receptive_field(net, torch.randn(2, 1, 9, 11))
    kernel = net.weight.detach()[0, 0].abs()
    assert field.shape == (9, 11)
    torch.testing.assert_close(field[3:6, 4:7], kernel / kernel.max())
    assert int((field > 0).sum()) == 9


def test_the_effective_field_is_a_mean_over_images_and_leaves_the_network_alone() -> None:
    class Squares(nn.Module):
        """The sum of x^2 over 3x3 pixels and two channels, whose gradient is 2 x."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.one * 9 * nn.functional.avg_pool2d(x**2, 3, 1, 1).sum(1, keepdim=True)

    images, net = torch.randn(5, 2, 8, 8), Squares()
    expected = images.abs().sum(1).mean(0)[3:6, 3:6]
    torch.testing.assert_close(effective_receptive_field(net, images)[3:6, 3:6], expected / expected.max())
    assert net.one.grad is None and images.grad is None


def test_the_side_counts_what_is_not_faint() -> None:
    field = torch.zeros(20, 20)
    field[5:10, 5:10], field[0], field[10, 10] = 0.5, 0.9 * FAINT, 1
    assert effective_side(field) == pytest.approx(26**0.5)


def test_a_network_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="does not depend"):
        effective_receptive_field(nn.Hardtanh(0, 1), torch.full((1, 1, 8, 8), -5.0))
    assert extent(torch.zeros(4, 4, dtype=torch.bool)) == (0, 0)
