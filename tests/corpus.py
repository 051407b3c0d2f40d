"""Files that users have, send or damage: each with the pixels that a reader must find in it, or none where it must
refuse; and masks, each with the foreground that it means."""

from .odd.damage import animated, bombs, damaged, foreign, truncated
from .odd.files import Odd
from .odd.masks import OddMask, other_sizes, read_masks, refused_masks
from .odd.medical import medical
from .odd.places import links, names
from .odd.readable import alpha, deep, modes, sizes, turned

IMAGES = (modes, turned, alpha, deep, sizes, truncated, damaged, animated, bombs, foreign, medical, names, links)
MASKS = (read_masks, refused_masks, other_sizes)


def corpus() -> list[Odd]:
    return [odd for part in IMAGES for odd in part()]


def odd_masks() -> list[OddMask]:
    return [mask for part in MASKS for mask in part()]
