"""Small tensors that the host makes for the device, on their way without anyone waiting for them."""

import torch
from torch import Tensor


def to_device(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on a device, all of them in one copy, which neither host nor device waits for.

    Args:
        tensors: of any types and shapes; as they are if the device is the CPU.
        device: where they are needed.
    """
    if device.type == "cpu":
        return tensors
    # Wide types first: so all of them begin at a multiple of their width.
    order = sorted(range(len(tensors)), key=lambda number: -tensors[number].element_size())
    packed = torch.cat([tensors[number].contiguous().view(-1).view(torch.uint8) for number in order])
    rest = packed.pin_memory().to(device, non_blocking=True)
    moved = dict[int, Tensor]()
    for number in order:
        size = tensors[number].numel() * tensors[number].element_size()
        moved[number] = rest[:size].view(tensors[number].dtype).view(tensors[number].shape)
        rest = rest[size:]
    return [moved[number] for number in range(len(tensors))]
