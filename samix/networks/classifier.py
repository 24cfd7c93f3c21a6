"""A classifier with two heads: its own for clean images, and a second one for mixed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from samix.networks.backbone import Backbone, find_layer, is_timm
from samix.networks.compile import compile_methods
from samix.networks.inference import in_place_of, unwrap


class Classifier(nn.Module):
    """A network with two heads on one trunk.

    AutoMix's released code trains separate heads for clean and for mixed images; the papers write one. Inference uses
    the clean one. Clean logits are ``model(x)``. Mixed logits are the same forward pass with other parameters in the
    classifier's layers, so every kind of head is served, and whatever the network does behind it. Buffers are shared.

    Both heads start apart: the last layers of the mixed head N(0, 0.01^2) with bias 0 as in the released code, layers
    before them as the network's own. The clean head keeps the initial values that the network came with, where the
    released code starts it as the mixed one: a choice of ours, so that pre-trained heads survive.

    Args:
        backbone: the wrapped network, (B, C, H, W) -> (B, num_classes).
        num_classes: K.
        classifier: dotted name of the classifier's layer, or names of several; None asks a timm network, and takes the
            last linear layer of any other.

    Raises:
        ValueError: no classifier is found, or one of another width; says what to give.
    """

    def __init__(self, backbone: Backbone, num_classes: int, classifier: str | Sequence[str] | None = None) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.layers = classifier_layers(backbone.model, num_classes, classifier)
        self.names = [
            f"{layer}.{name}" if layer else name
            for layer in self.layers
            for name, _ in backbone.model.get_submodule(layer).named_parameters()
        ]
        self.mixed_head = nn.ParameterDict()
        for name in self.names:
            self.mixed_head[key(name)] = nn.Parameter(backbone.model.get_parameter(name).detach().clone())
        self._start_mixed_head()
        self.checked = self.compiled = False

    @property
    def model(self) -> nn.Module:
        """The network that was given."""
        network: nn.Module = self.backbone.model
        return network

    def _start_mixed_head(self) -> None:
        for layer in self.layers:
            for name, module in self.model.get_submodule(layer).named_modules(prefix=layer):
                if width(module) == self.num_classes and key(f"{name}.weight") in self.mixed_head:
                    nn.init.normal_(self.mixed_head[key(f"{name}.weight")], std=0.01)
                    if key(f"{name}.bias") in self.mixed_head:
                        nn.init.zeros_(self.mixed_head[key(f"{name}.bias")])

    def feature_map(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Returns the map (B, D, h, w); ``whole`` runs the network to its end, for BatchNorm's statistics."""
        return self.backbone.feature_map(x, whole=whole)

    def clean(self, x: Tensor) -> Tensor:
        """Returns logits (B, K) of the network as it is."""
        return self._logits(self.model(x), len(x))

    def mixed(self, x: Tensor) -> Tensor:
        """Returns logits (B, K) of the network with the head of mixed images."""
        if self.checked or self.compiled:
            return self._logits(self._run_mixed(x), len(x))
        with self._noting_layers() as run:
            logits = self._logits(self._run_mixed(x), len(x))
        if not run:
            raise ValueError(
                f"the classifier {', '.join(map(repr, self.layers))} is not run by the network's forward; name its "
                'last layer, classifier="layer.name"'
            )
        self.checked = True
        return logits

    def _run_mixed(self, x: Tensor) -> object:
        return functional_call(self.model, {name: self.mixed_head[key(name)] for name in self.names}, (x,))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clean and mixed logits (B, K); in eval mode a timm network's trunk runs once."""
        if self.training or self.compiled or not is_timm(self.model):
            return self.clean(x), self.mixed(x)
        trunk, seen = self.model.forward_features, []

        def run(*args: object, **options: object) -> object:
            seen.append(trunk(*args, **options))  # type: ignore[operator]
            return tree_map(copied, seen[-1])  # heads may work in place

        with in_place_of(self.model, "forward_features", run):
            clean = self.clean(x)
        if len(seen) != 1:
            return clean, self.mixed(x)
        with in_place_of(self.model, "forward_features", lambda *_args, **_options: seen[0]):
            return clean, self.mixed(x)

    def compile_passes(self, **options: object) -> None:
        """Compiles the passes of both heads and of the feature map; options are those of ``torch.compile``."""
        compile_methods(self, ("clean", "mixed"), options)
        compile_methods(self.backbone, ("feature_map",), options)
        self.compiled = True

    def _logits(self, output: object, count: int) -> Tensor:
        """The network's output, if it is (B, K)."""
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{type(self.model).__name__} must give one tensor of logits, got {type(output).__name__}; switch its "
                "auxiliary outputs off (aux_logits=False, set_distilled_training(False)), or wrap it so that it does"
            )
        if output.shape != (count, self.num_classes):
            raise ValueError(
                f"{type(self.model).__name__} must give logits ({count}, {self.num_classes}), got "
                f"{tuple(output.shape)}; create it with num_classes={self.num_classes}"
            )
        return output

    @contextmanager
    def _noting_layers(self) -> Iterator[list[bool]]:
        """Inside, notes whether layers of the classifier run."""
        run: list[bool] = []
        with ExitStack() as hooks:
            for layer in self.layers:
                for module in self.model.get_submodule(layer).modules():
                    hooks.enter_context(module.register_forward_pre_hook(lambda *_: run.append(True)))
            yield run


def key(name: str) -> str:
    """Returns a parameter's name without dots, as torch asks of the keys of a ParameterDict."""
    return name.replace(".", "/")


def copied(value: object) -> object:
    """Returns a copy of a tensor, and anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def width(layer: nn.Module) -> int:
    """Returns the outputs of a linear or convolutional layer, 0 for others."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv1d | nn.Conv2d) else 0


def classifier_layers(model: nn.Module, num_classes: int, classifier: str | Sequence[str] | None) -> list[str]:
    """Returns the dotted names of the layers that are the classifier."""
    if classifier is not None:
        names = [classifier] if isinstance(classifier, str) else list(classifier)
        for name in names:
            if not list(find_layer(model, name, "classifier").parameters()):
                raise ValueError(f"classifier {name!r} has no parameters; name the network's last layer with weights")
        return names
    said = getattr(model, "num_classes", None)
    if isinstance(said, int) and said != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the network's classifier gives {said}; create the network with the "
            "same num_classes"
        )
    return timm_layers(model) if hasattr(model, "get_classifier") else [last_layer(model, num_classes)]


def timm_layers(model: nn.Module) -> list[str]:
    """Returns the names of what a timm network calls its classifier: a layer, or several."""
    given = model.get_classifier()  # type: ignore[operator]  # timm's method
    wanted = list(given) if isinstance(given, tuple | list) else [given]
    names = [name for name, module in model.named_modules() if any(module is each for each in wanted)]
    if not names or not all(list(model.get_submodule(name).parameters()) for name in names):
        kind = ", ".join(type(each).__name__ for each in wanted)
        raise ValueError(
            f"{type(model).__name__} says its classifier is {kind}, which has no weights; create it with "
            'num_classes, or name its last layer, classifier="layer.name"'
        )
    return names


def linear_classifier(model: nn.Module, name: str = "", num_classes: int | None = None) -> nn.Linear:
    """Returns the linear layer of that name; of an empty one, timm's classifier, or the last of any network.

    Args:
        model: in a DistributedDataParallel or not.
        name: dotted, or empty.
        num_classes: outputs that it must have; None does not ask.

    Raises:
        ValueError: the layer is not one ``nn.Linear``, or has other outputs.
    """
    net = unwrap(model)
    if name:
        layer: object = find_layer(net, name, "classifier")
    elif hasattr(net, "get_classifier"):
        layer = net.get_classifier()  # type: ignore[operator]  # timm's method
    else:
        layer = next((m for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)), None)
    if not isinstance(layer, nn.Linear) or num_classes not in (None, layer.out_features):
        got = f"Linear of {layer.out_features} outputs" if isinstance(layer, nn.Linear) else type(layer).__name__
        wanted = "" if num_classes is None else f" of {num_classes} outputs"
        raise ValueError(f'the classifier must be one nn.Linear{wanted}, got {got}; name it: classifier="layer.name"')
    return layer


def last_layer(model: nn.Module, num_classes: int) -> str:
    """Returns the name of the last linear layer, or of a convolution behind it that has as many outputs as classes."""
    layers = [(name, module) for name, module in model.named_modules() if width(module)]
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    if layers and (not linear or width(layers[-1][1]) == num_classes):
        linear.append(layers[-1][0])
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer or convolution to use as its classifier; give "
            'classifier="layer.name"'
        )
    outputs = width(model.get_submodule(linear[-1]))
    if outputs != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the network's last layer {linear[-1]!r} gives {outputs}; create the "
            'network with the same num_classes, or name its classifier, classifier="layer.name"'
        )
    return str(linear[-1])
