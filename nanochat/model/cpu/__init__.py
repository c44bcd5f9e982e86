"""Forms of the model's parts made for a CPU: own backward passes that save less and stay in the caches."""

import torch
from torch import Tensor


def takes(x: Tensor) -> bool:
    """True where these forms serve: on a CPU, outside of a compiler, which fuses the plain forms itself.

    They compute in float32; bfloat16 is converted on the way in and out.
    """
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not torch.compiler.is_compiling()
