"""Generated images with known masks: skin lesions, polyps in the colon, glands in stained tissue.

Everything is drawn from a seeded generator, so the data set needs no download and never changes. Shapes live in
relative coordinates (1.0 = the shorter image side), so a small picture is the small version of a large one.
Brightness, tint and polarity vary between images on purpose: no threshold solves the task, shape and texture do.
"""

from src.data.synthetic.baselines import baselines
from src.data.synthetic.pictures import KINDS, generate, sheet

__all__ = ["KINDS", "baselines", "generate", "sheet"]
