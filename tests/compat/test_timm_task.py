"""timm's training script and its prefetching loader, with the methods and mixups of samix."""

import copy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.loader import PrefetchLoader, fast_collate
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver
from torch.utils.data import DataLoader

import samix
from samix.compat.timm import CollateMixup, FastCollateMixup, Mixup
from samix.compat.timm_task import MethodTask

K = 5


def network(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=K)


def method_of(kind: str):
    net, generator = network(), torch.Generator().manual_seed(3)
    if kind == "samix":
        return samix.SAMix(net, num_classes=K, feature=2, generator=generator)
    return samix.Supervised(net, samix.MixUp(generator=generator), num_classes=K)


def batches(count: int = 6):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 32, 32, generator=draw), torch.randint(K, (8,), generator=draw)) for _ in range(count)]


def train(task, optimizer, data, accumulate: int = 1):
    """The lines of timm's script that make a step."""
    updates = task.steps
    for number, (images, target) in enumerate(data):
        task.train()
        result = task(images, target)
        (result["loss"] / accumulate).backward()
        if (number + 1) % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            task.update_ema(step=updates)


def optimizer_of(task):
    return create_optimizer_v2(task.method, opt="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)


@pytest.mark.parametrize("kind", ["samix", "supervised"])
def test_a_run_that_timm_saved_and_resumed_ends_as_one_that_ran_through(kind, tmp_path):
    data = batches()
    whole = MethodTask(method_of(kind), 6, verbose=False)
    train(whole, optimizer_of(whole), data)

    first = MethodTask(method_of(kind), 6, verbose=False)
    optimizer = optimizer_of(first)
    saver = CheckpointSaver(first.get_eval_model(), optimizer, checkpoint_dir=str(tmp_path), task=first)
    train(first, optimizer, data[:3])
    saver.save_checkpoint(0, metric=1.0)

    saved = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    network().load_state_dict(saved["state_dict"])  # plain timm weights
    second = MethodTask(method_of(kind), 6, verbose=False)
    optimizer = optimizer_of(second)
    second.load_checkpoint_state(saved["state_dict"], saved["task_state"])
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, data[3:])
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name


def test_what_is_validated_is_the_averaged_network_as_it_is_now():
    task = MethodTask(method_of("samix"), 4, verbose=False)
    optimizer, images = optimizer_of(task), batches(1)[0][0]
    model = task.get_eval_model()
    before = model(images)
    train(task, optimizer, batches(2), accumulate=2)
    assert task.steps == 1
    assert not torch.equal(model(images), before)
    assert torch.equal(model(images), task.method.export()(images))
    assert not model.network().training
    assert task.setup_ema(decay=0.9) is model
    assert not task.has_ema()
    parts = task(*batches(1)[0])
    assert set(parts) == {"loss", *task.method.loss_parts}


def test_a_checkpoint_without_the_methods_state_is_refused_with_what_to_do():
    task = MethodTask(method_of("samix"), 4, verbose=False)
    with pytest.raises(ValueError, match=r"no task_state of a samix method.*--initial-checkpoint"):
        task.load_checkpoint_state(network().state_dict())
    with pytest.raises(ValueError, match="total_steps must be a whole number in"):
        MethodTask(method_of("samix"), 0, verbose=False)


# The prefetching loader -----------------------------------------------------------------------------------------------


def samples(count: int = 6, size: int = 16):
    rng = np.random.default_rng(0)
    return [(rng.integers(256, size=(3, size, size), dtype=np.uint8), int(rng.integers(K))) for _ in range(count)]


def test_the_collating_mixup_gives_what_mixing_after_collating_gives():
    generator = torch.Generator().manual_seed(0)
    options = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": K}
    images, target = FastCollateMixup(**options, generator=generator)(samples())
    after = Mixup(**options, generator=torch.Generator().manual_seed(0))
    plain, labels = fast_collate(samples())
    mixed, soft = after(plain.float(), labels)
    assert images.dtype == torch.uint8
    assert torch.equal(images, mixed.round().to(torch.uint8))
    assert torch.equal(target, soft)


@pytest.mark.parametrize("mixup", [samix.FMix(), samix.SaliencyMix(prob=1.0)], ids=lambda mixup: mixup.name)
def test_timm_s_prefetching_loader_mixes_and_can_be_told_to_stop(mixup):
    collate = CollateMixup(copy.deepcopy(mixup), num_classes=K, label_smoothing=0.0)
    loader = PrefetchLoader(
        DataLoader(samples(8), 4, collate_fn=collate),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        device=torch.device("cpu"),
    )
    assert loader.mixup_enabled
    for images, target in loader:
        assert images.is_floating_point()
        assert target.shape == (4, K)
        SoftTargetCrossEntropy()(torch.zeros(4, K), target)
    assert any(bool((target.amax(1) < 1).any()) for _ in range(5) for _, target in loader)
    loader.mixup_enabled = False
    assert all(bool((target.amax(1) == 1).all()) for _, target in loader)


def test_the_detector_of_a_collating_mixup_sees_pixels_of_8_bits():
    seen = []

    class Looks(samix.SaliencyMix):
        def look(self, images, labels, model):
            seen.append((self.mean, self.std))
            return super().look(images, labels, model)

    CollateMixup(Looks(prob=1.0), num_classes=K)(samples())
    assert seen == [((0.0,) * 3, (1 / 255,) * 3)]


def test_a_network_in_place_of_a_method_is_refused():
    with pytest.raises(TypeError, match=r"must be a samix method, .*, got ResNet"):
        MethodTask(network(), 10)


PIXELS = np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((torch.rand(3, 8, 8), 1), r"must be uint8 .* got Tensor torch.float32; for float images take Mixup"),
        ((PIXELS.astype(np.float32), 1), "got ndarray float32"),
        ((Image.new("RGB", (8, 8)), 1), "got Image"),
        ((PIXELS[:, :7], 1), r"one size, got \(3, 8, 8\) and \(3, 7, 8\)"),
        ((PIXELS, "cat"), r"labels must be class ids or targets .* got 'cat'"),
        ((PIXELS, 9), r"labels must be in \[0, 4\]"),
    ],
)
def test_samples_that_the_prefetcher_would_cast_or_cannot_take_are_named(sample, message):
    with pytest.raises(ValueError, match=message):
        FastCollateMixup(0.8, 1.0, num_classes=K)([(PIXELS, 1), sample])
