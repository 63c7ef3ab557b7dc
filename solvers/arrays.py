"""The type of the arrays that searches work on."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
