"""The LightningModule of samix: steps, validation, accumulation, and runs that resume exactly."""

import pytest
import timm
import torch
from torch.utils.data import DataLoader, Dataset

import samix

lightning = pytest.importorskip("lightning")
from samix.compat.lightning import MethodModule  # noqa: E402
from samix.compat.state import images_and_labels  # noqa: E402

K = 5
pytestmark = [  # Lightning's own code, and the averaged copy, which stays in eval mode
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:Be aware that when using"),
]


class Data(Dataset):
    def __init__(self, as_dict: bool = False) -> None:
        draw = torch.Generator().manual_seed(1)
        self.images, self.labels = torch.randn(24, 3, 32, 32, generator=draw), torch.randint(K, (24,), generator=draw)
        self.as_dict = as_dict

    def __len__(self):
        return 24

    def __getitem__(self, i):
        pair = self.images[i], self.labels[i]
        return {"pixel_values": pair[0], "label": pair[1]} if self.as_dict else pair


class Module(MethodModule):
    def configure_optimizers(self):
        return torch.optim.SGD(self.method.parameter_groups(lr=0.05), momentum=0.9)


def module_of(kind: str) -> Module:
    torch.manual_seed(0)
    net, generator = timm.create_model("test_resnet", num_classes=K), torch.Generator().manual_seed(3)
    if kind == "samix":
        return Module(samix.SAMix(net, num_classes=K, feature=2, generator=generator))
    mixup = samix.RecursiveMix(generator=generator) if kind == "recursivemix" else samix.CutMix(generator=generator)
    return Module(samix.Supervised(net, mixup, num_classes=K))


def fit(module, folder, epochs: int, path=None, as_dict: bool = False, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"enable_checkpointing": False} | options,
    )
    loader = DataLoader(Data(as_dict), 6)
    trainer.fit(module, loader, loader, ckpt_path=path, weights_only=False)
    return trainer


@pytest.mark.parametrize("kind", ["samix", "cutmix", "recursivemix"])
def test_a_resumed_run_ends_as_one_that_ran_through(kind, tmp_path):
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = module_of(kind)
    fit(whole, tmp_path, 2, callbacks=[saver], enable_checkpointing=True)
    resumed = module_of(kind)
    fit(resumed, tmp_path, 2, tmp_path / "epoch=0.ckpt")
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name
    assert resumed.method.progress == 1.0


def test_a_checkpoint_inside_an_epoch_holds_the_averages_of_its_step(tmp_path):
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    module, moved = module_of("samix"), []
    after_step = module.method.after_step

    def counted(progress):
        after_step(progress)
        moved.append({name: value.clone() for name, value in module.state_dict().items()})

    module.method.after_step = counted
    fit(module, tmp_path, 1, callbacks=[saver], enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=False)
    assert saved["samix"]["step"] == 2
    assert len(moved) == 4
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in moved[1].items())


def test_after_step_is_called_once_for_each_optimiser_step(tmp_path):
    module, seen = module_of("samix"), []
    after_step = module.method.after_step

    def counted(progress):
        seen.append(progress)
        after_step(progress)

    module.method.after_step = counted
    fit(module, tmp_path, 1, accumulate_grad_batches=2)
    assert seen == [0.5, 1.0]


def test_validation_is_of_the_exported_network(tmp_path):
    module = module_of("samix")
    trainer = fit(module, tmp_path, 1)
    data = Data()
    network = module.method.export()
    right = (network(data.images).argmax(1) == data.labels).float().mean()
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(float(right))
    assert "train/loss" in trainer.callback_metrics
    assert {f"train/{part}" for part in module.method.loss_parts} & set(trainer.callback_metrics)


def test_batches_may_be_dicts_and_others_are_named(tmp_path):
    fit(module_of("cutmix"), tmp_path, 1, as_dict=True)
    with pytest.raises(ValueError, match="a dict with pixel_values, images or image and labels or label, got a dict"):
        images_and_labels({"x": 1})
    with pytest.raises(ValueError, match="got Tensor"):
        images_and_labels(torch.zeros(3))


def test_a_checkpoint_of_another_module_is_refused():
    with pytest.raises(ValueError, match="was not saved by samix's MethodModule"):
        module_of("cutmix").on_load_checkpoint({"state_dict": {}})


def test_validation_takes_one_hot_labels_and_values(tmp_path):
    class Targets(Data):
        def __init__(self, labels):
            super().__init__()
            self.labels = labels(self.labels)

    def validated(labels, classes):
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=classes)
        module = Module(samix.Supervised(net, samix.MixUp(), num_classes=classes))
        trainer = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        [metrics] = trainer.validate(module, DataLoader(Targets(labels), 6), verbose=False)
        return metrics

    one_hot = validated(lambda labels: torch.eye(K)[labels], K)
    assert one_hot == validated(lambda labels: labels, K)
    assert list(validated(lambda labels: labels.float() * 2, 1)) == ["val/loss"]


def test_a_network_in_place_of_a_method_is_refused():
    with pytest.raises(TypeError, match=r"must be a samix method, such as samix.SAMix\(model, 10\) .*, got ResNet"):
        MethodModule(timm.create_model("test_resnet"))
