"""GridMix's classifier of cells: its loss by loops, its head, and labels of either form."""

import oracles_recursive as oracles
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import PlainNet, tiny_cnn, tiny_vit

from samix.methods.supervised import Supervised
from samix.mixups.grid import GridMix, cell_loss

NETWORKS = {"cnn": (tiny_cnn, "", 64), "vit": (tiny_vit, "", 32), "plain": (PlainNet, "late", 32)}


def make(seed=0, **options):
    return GridMix(style="cells", generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (7, 7)], ids=str)
@pytest.mark.parametrize("cells", [1, 3, 4])
def test_the_loss_of_cells_equals_its_loop(size, cells):
    mix, images = make(cells=cells, per_sample=True), torch.randn(4, 3, *size)
    batch = mix(images, torch.arange(4))
    logits = torch.randn(4, 5, cells, cells)
    expected = oracles.cell_loss(logits.numpy(), batch.mask[:, 0].numpy(), batch.labels.numpy())
    assert float(cell_loss(logits, batch)) == pytest.approx(expected, rel=1e-5)
    soft = mix(images, F.one_hot(torch.arange(4), 5).float(), lam=0.5, index=torch.arange(4).roll(1))
    hard = type(soft)(**{**vars(soft), "labels": soft.labels.argmax(2)})
    torch.testing.assert_close(cell_loss(logits, soft), cell_loss(logits, hard))


def test_cells_without_a_pixel_do_no_harm():
    batch = make(cells=6)(torch.randn(2, 3, 3, 5), torch.arange(2))
    assert cell_loss(torch.randn(2, 4, 6, 6), batch).isfinite()


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_classifier_of_cells_trains_with_the_network(kind):
    build, layer, size = NETWORKS[kind]
    torch.manual_seed(0)
    method = Supervised(build(), make(cell_weight=0.3, layer=layer), num_classes=5)
    images, labels = torch.randn(4, 3, size, size), torch.arange(4)
    loss, parts = method((images, labels))
    assert float(loss.detach()) == pytest.approx(float(parts["mixed"] + parts["cells"]), rel=1e-5)
    loss.backward()
    assert method.heads.weight.grad.abs().max() > 0
    assert any(p is method.heads.weight for group in method.parameter_groups(0.1) for p in group["params"])
    doubled = Supervised(build(), make(cell_weight=0.6, layer=layer), num_classes=5)
    doubled.load_state_dict(method.state_dict())
    doubled.mixup.generator.manual_seed(0)
    method.mixup.generator.manual_seed(0)
    method.eval()
    doubled.eval()
    once, twice = (m((images, labels))[1]["cells"] for m in (method, doubled))
    torch.testing.assert_close(twice, 2 * once)


def test_without_a_weight_nothing_is_added():
    method = Supervised(tiny_cnn(), make(), num_classes=5)
    assert method.heads is None
    assert set(method((torch.randn(2, 3, 32, 32), torch.arange(2)))[1]) == {"mixed"}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match='is for style="cells"'):
        GridMix(cell_weight=0.1)
    with pytest.raises(ValueError, match="cell_weight must be in"):
        make(cell_weight=-1.0)
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"call attach\(model, num_classes\) before training"):
        make(cell_weight=0.1).forward_through(tiny_cnn(), images, torch.arange(2))
    mix = make(cell_weight=0.1)
    mix.attach(tiny_cnn(), 5)
    for labels in (torch.zeros(2, 32, 32, dtype=torch.long), torch.rand(2)):
        with pytest.raises(ValueError, match="set cell_weight=0"):
            mix.forward_through(tiny_cnn(), images, labels)
