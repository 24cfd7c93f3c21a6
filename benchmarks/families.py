"""A hundred networks of timm, of all its families: is what SAMix trains and reports what it exports?

    python benchmarks/families.py --out docs/results/families.json

Each network is built for small images, without weights, and goes through these checks; the first that fails is told:

- ``build``: SAMix takes it. A network that is refused must be told why and what to do.
- ``steps``: two steps of SGD on a batch of 4, with finite losses.
- ``gradients``: every parameter that has a gradient in plain training has one, and the Mixer and the mixed head have.
- ``statistics``: every BatchNorm of the averaged copy that plain training moves has moved.
- ``export``: after all weights and statistics are moved at random, ``predict`` and ``export`` differ by at most 1e-5 of
  the largest logit; and the mixed logits of one pass are those of a pass of their own.
- ``reload``: a new method that loads the state gives the same logits, and a new network that loads the export's.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import samix
from samix.networks.create import create_network
from samix.runtime.atomic_files import write_text

K, BATCH, SAME = 10, 4, 1e-5
SIZES = (64, 128)  # tried first, then the network's own
NETWORKS = """
beit_base_patch16_224 botnet26t_256 halonet26t lambda_resnet26t mobileone_s0 repvgg_a0 cait_xxs24_224 coat_lite_tiny
convit_tiny convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
cspresnet50 cspnext_tiny davit_tiny deit_tiny_distilled_patch16_224 deit3_small_patch16_224 densenet121 dla46_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_lite0 efficientvim_m1 efficientvit_b0
efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
ghostnetv3_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 lcnetv2_small levit_128s lowformer_b0 mambaout_femto coatnet_pico_rw_224
maxvit_pico_rw_256 caformer_s18 convformer_s18 poolformer_s12 mixer_s32_224 resmlp_12_224 mobilenetv3_small_050
fbnetv3_b mobilenetv4_conv_small mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 eca_nfnet_l0
pit_ti_distilled_224 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet18
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small vgg11_bn
visformer_tiny vit_tiny_patch16_224 vit_relpos_small_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p16_224
""".split()


class Failed(Exception):
    """A check that a network did not pass."""


def method_of(network: nn.Module) -> samix.SAMix:
    """SAMix with an average that moves, so that what is exported is not what was given."""
    options = samix.SAMixOptions(ema_decay=0.9, ema_decay_end=0.9)
    return samix.SAMix(network, K, options, generator=torch.Generator().manual_seed(1))


def build(name: str, size: int) -> nn.Module:
    """The network with new weights."""
    torch.manual_seed(0)
    return create_network(name, K, {}, size=size)


def fitting_size(name: str) -> int:
    """A small size of images at which a network runs, of those tried; its own where none is."""
    import timm

    for size in SIZES:
        try:
            with torch.device("meta"):
                build(name, size).train()(torch.zeros(2, 3, size, size))
            return size
        except Exception:  # whatever a network of another size raises
            continue
    return int(timm.get_pretrained_cfg(name).input_size[-1])


def run_steps(method: samix.SAMix, batch: tuple[Tensor, Tensor]) -> None:
    """Two steps; the gradients of the second are left."""
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-3))
    for step in range(2):
        optimizer.zero_grad()
        loss, _ = method(*batch)
        if not loss.isfinite():
            raise Failed(f"steps: the loss of step {step} is {loss.item()}")
        loss.backward()
        if step == 0:
            optimizer.step()
            method.after_step(0.5)


def plain_training(network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[set[str], set[str]]:
    """Names of the parameters with a gradient, and of the norms that move, in a plain step of the network."""
    network = copy.deepcopy(network).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    F.cross_entropy(network(batch[0]), batch[1]).backward()
    moved = {n for n, value in network.named_buffers() if n.endswith("running_mean") and not value.equal(before[n])}
    return {name for name, p in network.named_parameters() if p.grad is not None}, moved


@torch.no_grad()
def perturb(module: nn.Module) -> None:
    """Moves every weight and statistic, so that no norm is the identity and no head like another."""
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.mul_(1.0 + 0.2 * noise).add_(0.02 * torch.randn(parameter.shape, generator=generator))
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.mul_(0.5 + torch.rand(value.shape, generator=generator))


def compare(check: str, one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    if not (one.isfinite().all() and other.isfinite().all()):
        raise Failed(f"{check}: logits are not finite")
    difference = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
    if difference > SAME:
        raise Failed(f"{check}: differs by {difference:.1e} of the largest logit")
    return difference


def examine(name: str, size: int) -> dict[str, Any]:
    """All checks of a network.

    Raises:
        Failed: of the first that it does not pass.
    """
    batch = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(3)), torch.arange(BATCH)
    network = build(name, size)
    learns, moves = plain_training(network, batch)
    method = method_of(network)
    statistics = {n: value.clone() for n, value in method.ema_model.model.named_buffers()}
    run_steps(method, batch)
    trained = dict(method.model.model.named_parameters())
    silent = sorted(n for n in learns if trained[n].grad is None)
    silent += [n for n, p in method.mixer.named_parameters() if p.grad is None]
    silent += [n for n, p in method.model.mixed_head.items() if p.grad is None or not p.grad.any()]
    if silent:
        raise Failed(f"gradients: {len(silent)} parameters have none, the first is {silent[0]}")
    buffers = dict(method.ema_model.model.named_buffers())
    still = sorted(n for n in moves if buffers[n].equal(statistics[n]))
    if still:
        raise Failed(f"statistics: {len(still)} norms of the averaged copy do not move, the first is {still[0]}")
    perturb(method.ema_model)
    perturb(method.model)
    method.eval()
    with torch.no_grad():
        seen = method.predict(batch[0])
        worst = compare("export", seen["ema"], method.export()(batch[0]))
        worst = max(worst, compare("export", seen["ema_mixed_head"], method.ema_model.mixed(batch[0])))
        other = method_of(build(name, size)).eval()
        other.load_state_dict(method.state_dict())
        again = build(name, size).eval()
        again.load_state_dict(method.export().state_dict())
        for logits in (other.predict(batch[0])["ema"], again(batch[0])):
            compare("reload", seen["ema"], logits)
    return {"difference": worst, "parameters": sum(p.numel() for p in network.parameters())}


def row_of(name: str, size: int) -> dict[str, Any]:
    """The outcome of a network, as a row of the table."""
    try:
        return {"network": name, "size": size, "outcome": "passed", **examine(name, size)}
    except Failed as failure:
        return {"network": name, "size": size, "outcome": "failed", "why": str(failure)}
    except ValueError as refusal:
        return {"network": name, "size": size, "outcome": "refused", "why": str(refusal)}
    except Exception as error:  # one network must not end the table
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return {"network": name, "size": size, "outcome": "failed", "why": why}


def main() -> None:
    """Examines the networks and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names in timm; all that are listed here by default")
    parser.add_argument("--out", type=Path, help="JSON file; rows that are there already are kept")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    if arguments.out and arguments.out.is_file():
        rows = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
    names = arguments.networks or NETWORKS
    rows = [row for row in rows if row["network"] not in arguments.networks]
    for name in names:
        if any(row["network"] == name for row in rows):
            continue
        start = time.perf_counter()
        row = row_of(name, fitting_size(name))
        rows.append(row)
        gc.collect()
        print(f"{name:36}{row['size']:5} {row['outcome']:8} {row.get('why', row.get('difference'))}", end=" ")
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
        if arguments.out:
            order = {network: number for number, network in enumerate(NETWORKS)}
            rows.sort(key=lambda row: order.get(row["network"], len(order)))
            write_text(arguments.out, json.dumps({"networks": len(rows), "rows": rows}, indent=1) + "\n")
    outcomes = [row["outcome"] for row in rows]
    print(", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "refused", "failed")), f"of {len(rows)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
