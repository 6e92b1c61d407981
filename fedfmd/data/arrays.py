"""The arrays that images, labels and their places are."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Bytes = NDArray[np.uint8]
