"""The work of two processes in one: the joined batch, with the random numbers that each process draws for its half."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class JoinedDraws(TorchFunctionMode):
    """Replaces draws from the generator `joint` by those of several processes, concatenated in dimension 0.

    A step whose random numbers belong to samples (dimension 0 counts them) then draws for the joined batch exactly what
    the processes draw for their shares.
    """

    def __init__(self, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators
        self.joint = torch.Generator()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self.joint:
            return func(*args, **kwargs)
        parts = len(self.generators)

        def share(count: int) -> int:
            assert count % parts == 0, f"{func.__name__}: dimension 0 of {args} does not count samples"
            return count // parts

        drawn = []
        for number, generator in enumerate(self.generators):
            own = kwargs | {"generator": generator}
            if func is torch.randperm:
                drawn.append(func(share(args[0]), **own) + number * share(args[0]))
            elif isinstance(args[0], Tensor):
                drawn.append(func(args[0].chunk(parts)[number], *args[1:], **own))
            elif func is torch.randint:
                *bounds, size = args
                drawn.append(func(*bounds, (share(size[0]), *size[1:]), **own))
            else:
                size = args if isinstance(args[0], int) else tuple(args[0])
                drawn.append(func(share(size[0]), *size[1:], **own))
        return torch.cat(drawn)
