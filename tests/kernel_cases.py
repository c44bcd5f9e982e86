"""Random problems for the kernels, with the reference beside them; on a GPU where there is one, else interpreted."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model.ssd import ssd_sequential

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Scan:
    """A problem of the scan; odd sizes on purpose."""

    batch: int = 2
    length: int = 37
    heads: int = 4
    size: int = 5
    groups: int = 2
    d_state: int = 6
    is_packed: bool = False
    has_state: bool = True

    def tensors(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """Leaves by name in float32, and seq_idx."""
        generator = torch.Generator().manual_seed(self.length)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        leaves = {
            "x": normal(self.batch, self.length, self.heads, self.size),
            "dt": torch.rand(self.batch, self.length, self.heads, generator=generator) / 2,
            "A": -2 * torch.rand(self.heads, generator=generator),
            "B": normal(self.batch, self.length, self.groups, self.d_state),
            "C": normal(self.batch, self.length, self.groups, self.d_state),
        }
        if self.has_state:
            leaves["state"] = normal(self.batch, self.heads, self.size, self.d_state)
        numbers = torch.randint(5, (self.batch, self.length), generator=generator).eq(0).long().cumsum(1)
        return {name: leaf.to(DEVICE) for name, leaf in leaves.items()}, numbers.to(DEVICE) if self.is_packed else None

    def run(self, form: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype = torch.float32, **options: object
            ) -> dict[str, Tensor]:
        """y, the last state and all gradients of one form, with x, B, C in `dtype`."""
        tensors, seq_idx = self.tensors()
        leaves = {name: leaf.requires_grad_() for name, leaf in tensors.items()}
        x, b, c = (leaves[name].to(dtype) for name in ("x", "B", "C"))
        y, last = form(x, leaves["dt"], leaves["A"], b, c, state=leaves.get("state"), seq_idx=seq_idx, **options)
        assert y.dtype == dtype and last.dtype == torch.float32
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        ((y.float() * weights).sum() + last.pow(2).sum()).backward()
        return {"y": y.float(), "last": last} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}


def check_scan(case: Scan, form: Callable[..., tuple[Tensor, Tensor]], tolerance: float,
               dtype: torch.dtype = torch.float32, **options: object) -> None:
    """A form of the scan gives the outputs and gradients of the recurrence, to `tolerance` of the largest entry."""
    expected, found = case.run(ssd_sequential), case.run(form, dtype, **options)
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        difference = (value - found[name].float()).abs().max().item() / scale
        assert difference < tolerance, f"{name} differs by {difference} of {scale}, {case}"
