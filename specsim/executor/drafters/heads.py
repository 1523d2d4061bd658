"""Reading the checkpoint of a draft head: a ``config.json`` and safetensors that must fit the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from specsim.documents import read_json
from specsim.errors import InputError
from specsim.executor.layers import Weights
from specsim.executor.llama import Llama
from specsim.executor.weights import read_tensors


def read_head_config(directory: Path) -> dict[str, Any]:
    """The config of a head. Raises InputError where it is missing or no object."""
    config = read_json(directory / "config.json")
    if not isinstance(config, dict):
        raise InputError("config.json", "must be an object", config)
    return config


def whole_number(config: dict[str, Any], field: str, least: int, default: int | None = None, most: int = 1000) -> int:
    """A field of a config. Raises InputError unless it is a whole number from ``least`` to ``most``.

    >>> whole_number({"medusa_num_heads": 4}, "medusa_num_heads", least=1)
    4
    """
    value = config.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(field, f"must be a whole number from {least} to {most}", value)
    return value


def read_head(directory: Path, expected: dict[str, tuple[int, ...]], target: Llama) -> Weights:
    """Tensors of these names and shapes, in the target's type, on its device. Raises InputError where one misfits."""
    return {name: tensor.to(target.device, target.dtype) for name, tensor in read_tensors(directory, expected).items()}


def padded(rows: list[list[int]], device: torch.device) -> torch.Tensor:
    """Rows of unequal length as one array ``[B, longest]``, filled up with token 0.

    >>> padded([[3], [4, 5]], torch.device("cpu")).tolist()
    [[3, 0], [4, 5]]
    """
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64, device=device)
