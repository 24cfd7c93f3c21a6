"""The attention that is read equals the attention that the network uses, and nothing is left behind."""

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.networks.attention import (
    attention_layers,
    capture_attention,
    class_attention,
    patch_grid,
    patches_of,
    predicts_from_class_token,
    prefix_tokens,
    received_attention,
    watching,
)

VITS = {
    "class": {},
    "registers": {"reg_tokens": 3},
    "norms": {"qk_norm": True},
    "pooled": {"global_pool": "avg", "class_token": False},
    "pooled_with_class": {"global_pool": "avg"},
    "wide": {"img_size": (16, 40)},
}


def vit_of(kind):
    options = {"img_size": 32, "qkv_bias": True} | VITS[kind]
    torch.manual_seed(3)
    return randomised(tiny_vit(**options), 0.15).eval(), torch.randn(2, 3, *(16, 40) if kind == "wide" else (32, 32))


def used(model, images):
    """The attention of every block, from the network's own slow path: (B, heads, T, T) each."""
    kept, handles = [], []
    before = [block.attn.fused_attn for block in model.blocks]
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_pre_hook(lambda _m, args: kept.append(args[0].detach())))
    model(images)
    for block, handle, fused in zip(model.blocks, handles, before, strict=True):
        block.attn.fused_attn = fused
        handle.remove()
    return kept


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", VITS)
def test_it_is_the_attention_that_the_network_uses(kind):
    model, images = vit_of(kind)
    expected = used(model, images)
    with torch.no_grad(), capture_attention(model) as kept:
        model(images)
    assert len(kept) == len(expected) == 4
    for got, want in zip(kept, expected, strict=True):
        torch.testing.assert_close(got, want.mean(1))
        torch.testing.assert_close(got.sum(2), torch.ones(got.shape[:2]))
    with torch.no_grad(), capture_attention(model, last=True) as kept:
        model(images)
    assert len(kept) == 1
    torch.testing.assert_close(kept[0], expected[-1].mean(1))
    assert hooks_of(model) == 0


@pytest.mark.parametrize("kind", VITS)
def test_maps_are_rows_and_columns_of_the_last_block(kind):
    model, images = vit_of(kind)
    last = used(model, images)[-1].mean(1)
    start = {"class": 1, "registers": 4, "norms": 1, "pooled": 0, "pooled_with_class": 1, "wide": 1}[kind]
    grid = (2, 5) if kind == "wide" else (4, 4)
    received = last[:, start:, start:].mean(1).view(2, *grid)
    row = received if "pooled" in kind else last[:, 0, start:].view(2, *grid)
    with torch.no_grad():
        torch.testing.assert_close(class_attention(model, images)[1], row)
        logits, got = received_attention(model, images)
        torch.testing.assert_close(got, received)
        torch.testing.assert_close(logits, model(images), atol=0, rtol=0)
    assert prefix_tokens(model) == start
    assert patch_grid(model, images.shape[2:]) == grid
    assert predicts_from_class_token(model) == ("pooled" not in kind)


def test_a_distillation_token_is_no_patch():
    model = VisionTransformerDistilled(img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=5)
    model, images = model.eval(), torch.randn(2, 3, 32, 32)
    last = used(model, images)[-1].mean(1)
    torch.testing.assert_close(class_attention(model, images)[1], last[:, 0, 2:].view(2, 4, 4))


def test_images_of_another_size_have_a_grid_of_their_own():
    model = tiny_vit(dynamic_img_size=True).eval()
    assert class_attention(model, torch.randn(1, 3, 24, 48))[1].shape == (1, 3, 6)
    padded = tiny_vit(dynamic_img_size=True, dynamic_img_pad=True).eval()
    assert class_attention(padded, torch.randn(1, 3, 20, 41))[1].shape == (1, 3, 6)


def test_logits_and_gradients_are_those_of_the_plain_pass_and_the_map_has_no_graph():
    model, images = vit_of("class")
    model.train()
    logits, attention = class_attention(model, images)
    assert logits.requires_grad
    assert not attention.requires_grad
    logits.square().sum().backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(images).square().sum().backward()
    for gradient, p in zip(got, model.parameters(), strict=True):
        assert torch.equal(gradient, p.grad)


def test_fused_attention_stays_on(monkeypatch):
    model, images = vit_of("class")
    calls = []
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), fused(*a, **k))[1]
    )
    class_attention(model, images)
    assert len(calls) == 4


def test_half_precision_is_read_in_float32():
    model, images = vit_of("class")
    with torch.no_grad():
        exact = class_attention(model, images)[1]
        with torch.autocast("cpu", torch.bfloat16):
            got = class_attention(model, images)[1]
        half = class_attention(model.bfloat16(), images.bfloat16())[1]
    for other in (got, half):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, exact, atol=0.02, rtol=0.2)


def test_hooks_are_removed_also_when_the_network_raises():
    model, images = vit_of("class")
    with pytest.raises(Exception, match="height"):
        class_attention(model, torch.randn(1, 3, 40, 40))
    assert hooks_of(model) == 0
    with pytest.raises(RuntimeError, match="mine"), watching(model, lambda _a: None):
        raise RuntimeError("mine")
    assert hooks_of(model) == 0
    with pytest.raises(ZeroDivisionError), watching(model, lambda _a: 1 / 0):
        model(images)
    assert hooks_of(model) == 0


def test_checkpointed_blocks_are_seen_once():
    model, images = vit_of("class")
    model.set_grad_checkpointing()
    model.train()
    with capture_attention(model) as kept:
        model(images).sum().backward()
    assert len(kept) == 4


@pytest.mark.parametrize(
    "model",
    [
        PlainNet(),
        tiny_cnn(),
        timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2, use_rel_pos_bias=True),
        timm.create_model("eva02_tiny_patch14_224", depth=1, embed_dim=24, num_heads=2),
        timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=12, num_heads=(1, 1, 2, 2)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_other_networks_are_refused_by_name(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__}.*plain ViT of timm"):
        attention_layers(model)
    with pytest.raises(ValueError, match="plain ViT of timm"):
        received_attention(model, torch.randn(1, 3, 32, 32))


def test_a_network_that_did_not_run_or_dropped_tokens_is_an_error():
    model, images = vit_of("class")
    with pytest.raises(ValueError, match="4 of 4 attention layers did not run"), watching(model, lambda _a: None):
        pass
    dropping = tiny_vit(patch_drop_rate=0.5).train()
    with pytest.raises(ValueError, match=r"4 x 4 patches.*9 tokens"):
        class_attention(dropping, images)
    with pytest.raises(ValueError, match="patch_drop_rate"):
        patches_of(torch.zeros(2, 3, 5), model, images)
