"""The small network of NIID-Bench (Li et al. 2022, arXiv 2102.02079), like LeNet-5 (LeCun et al. 1998)."""

import torch.nn.functional as F
from torch import Tensor, nn

from fedfmd.errors import UserError
from fedfmd.nn.pooling import relu_pool
from fedfmd.registry import register

SMALLEST_SIDE = 16


@register("network", "cnn")
class SmallCNN(nn.Module):
    """Two 5x5 convolutions of 6 and 16 channels, each with ReLU and 2x2 max-pooling; layers of 120 and 84.

    Input (B, in_channels, image_size, image_size), output logits (B, num_classes); drawn as PyTorch draws.
    With 3 channels of 32 pixels it has 62,006 parameters, with one of 28 pixels 44,426. Raises UserError
    for images of which the convolutions leave nothing.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        if image_size < SMALLEST_SIDE:
            raise UserError(
                f"name = 'cnn' needs images of {SMALLEST_SIDE} pixels or more, not {image_size} "
                "(data.image_size)"
            )
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, channels, side, side): logits (B, num_classes)."""
        x = relu_pool(self.conv2(relu_pool(self.conv1(x))))
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc(F.relu(self.fc2(x)))
        return logits
