"""Run a model's methods as its scores are defined: without gradients, and without autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def inference(method: Method) -> Method:
    """Decorate a method of SPIPS; a caller's autocast would change its scores."""

    @wraps(method)
    def run(model: Any, *args: Any, **kwargs: Any) -> Any:
        device = next(model.streams.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return method(model, *args, **kwargs)

    return run  # type: ignore[return-value]
