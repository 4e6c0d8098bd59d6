"""Torch networks to bytes and back: safetensors, each tensor by name, and one sentence where one does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bci_align.errors import BciAlignError


def pack(named: Mapping[str, nn.Module | Tensor]) -> bytes:
    """Serialise tensors and the parameters and buffers of networks, each under its name and a dot; of '' under none."""
    tensors: dict[str, Tensor] = {}
    for name, part in named.items():
        tensors |= {name: part} if isinstance(part, Tensor) else {_under(name, k): v for k, v in part.state_dict().items()}
    # Contiguous copies: safetensors writes an array's memory as it lies.
    data: bytes = safetensors.torch.save({k: v.detach().contiguous() for k, v in tensors.items()})
    return data


def unpack(data: bytes, where: Path, error: type[BciAlignError]) -> dict[str, Tensor]:
    """Tensors by name; ``error`` begins with ``where`` for what is no safetensors file."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as e:
        raise error(f"{where}: not a safetensors file ({e})") from None
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, Tensor], name: str, where: Path, error: type[BciAlignError]) -> None:
    """Load into ``module`` the tensors under ``name``, each of which must be there, of the right type and shape, and no other."""
    wanted = {_under(name, k): v for k, v in module.state_dict().items()}
    found = {k: v for k, v in tensors.items() if k.startswith(_under(name, ""))}
    for key in sorted(wanted.keys() | found.keys()):
        expected, there = (_told(t.get(key)) for t in (wanted, found))
        if expected != there:
            raise error(f"{where}: does not fit its manifest: tensor {key!r:.80}: expected {expected}, found {there}")
    module.load_state_dict({k.removeprefix(_under(name, "")): v for k, v in found.items()}, strict=True)


def _under(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _told(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
