"""What ``worth.py`` runs that the library does not have: rivals with a running average, forms of a frozen Mixer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worth_settings import Form, Row, Setting

from samix.batch import MixedBatch, unmixed
from samix.methods.automix import AutoMix
from samix.methods.averaged import Averaged
from samix.methods.base import Batch, Method
from samix.methods.supervised import Supervised
from samix.mixers.pretrained import Mixer
from samix.mixups.base import Augmentation
from samix.networks.create import create_network
from samix.networks.ema import ema_decay_at, update_ema, update_ema_buffers
from samix.recipes import Recipe
from samix.recipes.build import build_method, build_mixup

HEAD_NAMES = {
    "ema": "ema_clean",
    "ema_mixed_head": "ema_mixed",
    "model": "online_clean",
    "model_mixed_head": "online_mixed",
}


class FormedMixer(Mixer):
    """A frozen Mixer used in another form, see :class:`Form`. With one softness it draws what a plain one draws."""

    form = Form()

    @torch.no_grad()
    def predict_mask(self, z: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks (B, 1, H, W), as soft as the form says, by chance in each batch."""
        low, high = self.form.softness
        self.softness = low + (high - low) * float(torch.rand((), generator=self.generator)) if high > low else low
        return super().predict_mask(z, partner, lam, size)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, *, index: Tensor | None = None, **options: Any) -> MixedBatch:
        """Mixes a batch, with partners of little overlap where the form asks for them."""
        if self.form.apart and index is None:
            features = self.encode(images)
            options["features"] = features
            index = least_overlap(self.loaded.mixer.project(features)[:, 0])
        return super().__call__(images, labels, index=index, **options)


def least_overlap(scores: Tensor) -> Tensor:
    """The permutation (B,) without fixed points whose pairs of score maps (B, h, w) overlap least in sum."""
    from scipy.optimize import linear_sum_assignment

    share = scores.flatten(1).softmax(1)
    cost = (share @ share.T).fill_diagonal_(1e6)
    return torch.as_tensor(linear_sum_assignment(cost.numpy())[1])


class Rival(Averaged):
    """A hand-made mixup or a frozen Mixer, with the running average of SAMix's schedule beside the network.

    Args:
        args: of :class:`Averaged`.
        ema: decay at the start and at the end, and the share of the run in which it is held.
        report: name of the classifier to report.
        until: share of the run after which only the clean loss is left.
        kwargs: of :class:`Averaged`.
    """

    def __init__(
        self, *args: Any, ema: tuple[float, float, float], report: str, until: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.ema, self.report, self.until = ema, report, until

    def training_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the step, or in the last part of the run that of the clean loss alone."""
        if self.progress < self.until:
            return super().training_step(batch)
        clean = self.loss_of(self.model(batch[0]), unmixed(*batch, self.mixup.targets))
        return self.clean_weight * clean, {"mixed": torch.zeros(()), "clean": clean.detach()}

    def after_step(self, progress: float) -> None:
        """Moves the average; the first averages of statistics are short, as new ones mean nothing."""
        decay = ema_decay_at(progress, *self.ema)
        update_ema(self.model, self.ema_model, decay)
        update_ema_buffers(self.model, self.ema_model, min(decay, (self.step + 1) / (self.step + 10)))
        Supervised.after_step(self, progress)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of the network and of its average, the one to report first."""
        found = {"online_clean": self.model(images), "ema_clean": self.ema_model(images)}
        return dict(sorted(found.items(), key=lambda item: item[0] != self.report))


def all_heads(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits by head under one set of names, with the mean of two heads where there are two."""
    found = {HEAD_NAMES.get(name, name): value for name, value in logits.items()}
    for which in ("online", "ema"):
        if f"{which}_mixed" in found:
            found[f"{which}_mean"] = (found[f"{which}_clean"] + found[f"{which}_mixed"]) / 2
    return found


def make_network(setting: Setting, recipe: Recipe, num_classes: int) -> nn.Module:
    """A new network, with the setting's packaged weights and a new head."""
    net = create_network(recipe.model, num_classes, recipe.model_kwargs, size=recipe.size, stem=recipe.stem)
    if setting.weights:
        from samix.hub.packaged import packaged_weights

        given = packaged_weights(setting.weights)[1]
        head = [name for name, value in net.state_dict().items() if value.shape != given[name].shape]
        net.load_state_dict({name: value for name, value in given.items() if name not in head}, strict=False)
    return net.to(memory_format=torch.channels_last) if recipe.channels_last else net


def make_method(setting: Setting, row: Row, recipe: Recipe, num_classes: int, pixels: tuple[Any, Any]) -> Method:
    """The method of a row on a new network; all rows of a seed begin with the same weights."""
    net = make_network(setting, recipe, num_classes)
    method: Method
    if row.kind == "learned":
        method = build_method(recipe, num_classes, pixels, network=net)
    else:
        mixup = formed(row, build_mixup(recipe.mixup, recipe.mixup_options))
        mixup.set_normalization(*pixels)
        method = Rival(
            net,
            mixup,
            num_classes=num_classes,
            smoothing=recipe.smoothing,
            clean_weight=recipe.clean_weight,
            ema=setting.ema,
            report="ema_clean" if row.kind == "averaged" else "online_clean",
            until=row.form.until if row.form else 1.0,
            clean_share=0.5 if row.once else 0.0,
        )
    return frozen_norms(method) if setting.weights else method


def formed(row: Row, mixup: Augmentation) -> Augmentation:
    """The mixup, a frozen Mixer in the row's form."""
    if row.form and isinstance(mixup, Mixer):
        mixup.__class__ = FormedMixer
        mixup.form = row.form  # type: ignore[attr-defined]
    return mixup


def network_of(method: Method) -> nn.Module:
    """The network that is trained."""
    network: nn.Module = method.model.model if isinstance(method, AutoMix) else method.model  # type: ignore[assignment]
    return network


def frozen_norms(method: Method) -> Method:
    """The method, whose networks (not its Mixer) keep the statistics that they came with, also in train mode."""
    base: type[Any] = type(method)

    def train(self: Any, mode: bool = True) -> Any:
        base.train(self, mode)
        for network in (self.model, self.ema_model):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.training = False
        return self

    method.__class__ = type(f"Frozen{base.__name__}", (base,), {"train": train})
    return method.train()


def start_heads(method: Method, images: Tensor, labels: Tensor, l2: float = 0.1) -> None:
    """Writes a logistic regression of the images' features into every head (arXiv:2202.10054: probe, then fine-tune).

    Args:
        method: of the run.
        images: (N, 3, H, W), normalised.
        labels: (N,).
        l2: half of it times the squared weights, of standardised features, is added to the loss.
    """
    net: Any = network_of(method).eval()
    with torch.no_grad():
        z = torch.cat([net.forward_head(net.forward_features(part), pre_logits=True) for part in images.split(125)])
    mean, std = z.mean(0), z.std(0) + 1e-3
    z = (z - mean) / std
    weight = torch.zeros(z.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ weight + bias, labels) + l2 * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    rows = (weight.detach() / std[:, None]).T
    state = {"weight": rows, "bias": bias.detach() - rows @ mean}
    copies = [method.model, method.ema_model]
    for each in copies:
        inner: Any = each.model if isinstance(method, AutoMix) else each
        inner.get_classifier().load_state_dict(state)
        if isinstance(method, AutoMix):
            for name, parameter in each.mixed_head.items():  # type: ignore[union-attr, operator]
                parameter.data.copy_(state[name.rpartition("/")[2]])
    method.train()
