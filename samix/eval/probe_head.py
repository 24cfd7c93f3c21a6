"""Starts a classifier from a logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PENALTY, ITERATIONS = 0.05, 60  # of the squared weights on standardised features; of LBFGS


def linear_classifier(model: nn.Module) -> nn.Linear:
    """Returns the last linear layer of a timm network; raises ValueError if it has none."""
    classifier = getattr(model, "get_classifier", lambda: None)()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no linear classifier that timm's get_classifier() returns; leave out "
            "probe_head, and freeze only norms"
        )
    return classifier


def start_head(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Fits the classifier of a timm network on its features in eval mode; in place, deterministic."""
    classifier, network = linear_classifier(model), model.to(device).eval()
    timm_model: Any = network
    with torch.no_grad():
        pairs = [
            (timm_model.forward_head(timm_model.forward_features(x.to(device)), pre_logits=True).float(), y.to(device))
            for x, y in batches
        ]
    features, labels = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    standardised = (features - mean) / std
    weight = torch.zeros(classifier.out_features, classifier.in_features, device=device, requires_grad=True)
    bias = torch.zeros(classifier.out_features, device=device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(standardised, weight, bias), labels) + PENALTY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        classifier.weight.copy_(weight / std)
        if classifier.bias is not None:
            classifier.bias.copy_(bias - (weight / std) @ mean)
    model.train()
