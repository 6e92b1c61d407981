"""Static batch normalisation (Diao et al. 2021): statistics of the global model on clients' images.

Running statistics that are averaged over clients belong to no model. Instead, clients run their training
images through the global model, whose BatchNorm layers normalise by their batches, and send the mean and the
mean square of every layer's input by channel. Weighted by examples these are sums, so they go through the
same exact sum as updates, at the places of ``running_mean`` and ``running_var``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedfmd.data.augment import Augment, merged_tail
from fedfmd.nn.norm import STATISTICS
from fedfmd.nn.vector import Layout
from fedfmd.training.watchdog import advancing

MEAN, VARIANCE = STATISTICS


@torch.no_grad()
def input_moments(
    model: nn.Module, images: Tensor, augment: Augment, batch_size: int, layout: Layout, elements: int
) -> Tensor:
    """Return the moments of a client's images, uint8 (N, C, H, W), float32 (``elements``,), and 0 elsewhere.

    ``layout`` is the model's.
    """
    moments = {name: torch.zeros(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}
    watched = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
    hooks = [m.register_forward_pre_hook(_watch(moments, f"{n}.", len(images))) for n, m in watched]
    model.train()
    device = next(model.parameters()).device
    try:
        for part in advancing(merged_tail(images.split(batch_size), 2)):
            model(augment.eval_batch(part.to(device)))
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.cat([moments[name].flatten() for name in layout.names])
    return torch.cat([found, torch.zeros(elements - layout.elements)])


def with_statistics(state: Tensor, mean: Tensor, layout: Layout) -> Tensor:
    """Return a global state, float32 (n,), with the statistics of its BatchNorm layers from ``mean`` moments.

    ``mean``, float64 (n,), are clients' ``input_moments``; ``layout`` is that of the state, which both begin
    with.
    """
    changed = state.clone()
    views, moments = layout.views(changed[: layout.elements]), layout.views(mean[: layout.elements])
    for name in views:
        if name.endswith(MEAN):
            own = name.removesuffix(MEAN)
            variance = moments[own + VARIANCE] - moments[name].square()
            views[name].copy_(moments[name])
            views[own + VARIANCE].copy_(variance.clamp(min=0))
    return changed


def _watch(moments: dict[str, Tensor], prefix: str, images: int) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        x = inputs[0].double()
        over = [0] if x.dim() == 2 else [0, 2, 3]
        share = len(x) / images
        moments[prefix + MEAN] += (share * x.mean(over)).cpu()
        moments[prefix + VARIANCE] += (share * x.square().mean(over)).cpu()

    return hook
