"""Detection: readers of both layouts, precision against a loop, a narrow detector on coloured rectangles, and names."""

import dataclasses
import json
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch
import torchvision
from oracles_probing import overlap, voc_ap
from tiny_networks import PlainNet, randomised, tiny_cnn
from torch import nn
from voc_folders import COLOURS, rectangles, write_voc

from samix.eval.box_batches import BoxImages, batch_keys, box_batches, object_masks, with_objects
from samix.eval.boxes import (
    Objects,
    image_targets,
    load_boxes,
    outline_mask,
    read_coco,
    read_voc,
    text_counts,
)
from samix.eval.detection import detection_metrics, precise_statistics, train_detector
from samix.eval.detector import DETECTION_PROTOCOLS, DetectionProtocol, build_detector
from samix.eval.detectron2 import find_prefix, from_detectron2, save_detectron2, to_detectron2, to_torchvision
from samix.eval.precision import THRESHOLDS, coco_precision, eleven_points, voc_precision

SMALL = DetectionProtocol(
    iterations=3,
    steps=(2,),
    short_sides=(64,),
    test_side=64,
    max_side=80,
    warmup=1,
    batch_size=2,
    anchors=(16, 32),
    precise=2,
)


def write_coco(root, splits):
    (root / "annotations").mkdir(parents=True)
    for split, made in splits.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number, (image, boxes, labels) in enumerate(made):
            images.append({"id": 100 + number, "file_name": f"{number}.jpg", "height": 64, "width": 72})
            image.save(root / split / f"{number}.jpg", quality=95)
            for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
                outline = [[x0, y0, x1 - 1, y0, x1 - 1, y1 - 1, x0, y1 - 1]]
                annotations.append(
                    {
                        "image_id": 100 + number,
                        "category_id": 10 * label,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "segmentation": outline,
                        "iscrowd": 0,
                    }
                )
        table = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 20, "name": "blue"}, {"id": 10, "name": "red"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    return root


@pytest.fixture
def voc(tmp_path):
    splits = {"trainval": rectangles(8, 1), "test": rectangles(5, 2)}
    return write_voc(tmp_path, splits, difficult=("2007_test_1",)), splits


@pytest.fixture
def coco(tmp_path):
    splits = {"train2017": rectangles(8, 1), "val2017": rectangles(5, 2)}
    return write_coco(tmp_path, splits), splits


def test_both_layouts_give_the_boxes_that_were_drawn(voc, tmp_path_factory):
    folder, splits = voc
    other = write_coco(tmp_path_factory.mktemp("coco"), {"train2017": splits["trainval"], "val2017": splits["test"]})
    for data in (load_boxes(f"voc07:{folder}"), load_boxes(f"coco:{other}")):
        for split, made in ((data.train, splits["trainval"]), (data.test, splits["test"])):
            for objects, (_, boxes, labels) in zip(split.objects, made, strict=True):
                assert objects.boxes.tolist() == [list(map(float, box)) for box in boxes]
                assert objects.labels.tolist() == labels
    assert data.class_names == ("red", "blue")  # in the order of their ids
    assert data.name == "coco"


def test_difficult_objects_are_marked_and_become_no_target(voc):
    data = load_boxes(f"voc07:{voc[0]}")
    assert [bool(o.difficult.any()) for o in data.test.objects] == [False, True, False, False, False]
    targets = image_targets(data.test.objects, 20)
    assert targets.shape == (5, 20)
    for row, objects in zip(targets, data.test.objects, strict=True):
        for label in range(1, 21):
            hard = objects.difficult[objects.labels == label]
            assert row[label - 1] == (0 if not len(hard) else -1 if hard.all() else 1)
    assert (targets[1] == -1).any()


def test_the_years_are_trained_on_together(voc):
    folder, splits = voc
    with pytest.raises(FileNotFoundError, match="VOC2012"):
        load_boxes(f"voc0712:{folder}")
    write_voc(folder, {"trainval": rectangles(3, 5)}, year="2012")
    data = load_boxes(f"voc0712:{folder}")
    assert (len(data.train), len(data.test)) == (len(splits["trainval"]) + 3, len(splits["test"]))


def test_wrong_layouts_are_refused(voc, coco, tmp_path):
    for spec in ("voc:x", "coco", "pascal:x"):
        with pytest.raises(ValueError, match="detection data must be voc07:DIR"):
            load_boxes(spec)
    with pytest.raises(FileNotFoundError, match="belongs to the data set's layout"):
        load_boxes(f"coco:{tmp_path / 'none'}")
    with pytest.raises(ValueError, match="has the class"):
        read_voc(voc[0], [("2007", "trainval")], [("2007", "test")], classes=("cat",))
    (voc[0] / "VOC2007/Annotations/2007_test_0.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match="is not a Pascal VOC annotation"):
        load_boxes(f"voc07:{voc[0]}")
    (coco[0] / "annotations/instances_val2017.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a COCO annotation"):
        load_boxes(f"coco:{coco[0]}")


def test_outlines_become_pixels():
    wanted = torch.zeros(6, 5, dtype=torch.bool)
    wanted[1:4, 2:5] = True
    assert torch.equal(outline_mask([[2, 1, 4, 1, 4, 3, 2, 3]], 6, 5), wanted)
    runs = [13, 3, 3, 3, 3, 3, 2]  # column by column, zeros first
    assert torch.equal(outline_mask({"counts": runs, "size": [6, 5]}, 6, 5), wanted)
    assert not outline_mask([], 6, 5).any()
    with pytest.raises(ValueError, match="do not fit 6 x 6"):
        outline_mask({"counts": runs}, 6, 6)
    with pytest.raises(ValueError, match="a list of polygons or run lengths, got str"):
        outline_mask("x", 6, 5)


def written(counts):
    """Run lengths as COCO writes them: from the fourth number on the difference to the one two before."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != (-1 if code & 16 else 0)
            text += chr(code + 32 * more + 48)
    return text


def test_run_lengths_written_as_text_are_read():
    generator = np.random.default_rng(0)
    for counts in ([13, 3, 3, 3, 3, 3, 2], [0, 1000, 5, 40000, 1, 1, 70, 3], generator.integers(0, 5000, 40).tolist()):
        assert text_counts(written(counts)) == counts


def random_scenes(seed, images=6):
    """Detections near and far from objects of three classes, some difficult; scores without ties."""
    generator = np.random.default_rng(seed)

    def box(centre):
        size = generator.uniform(8, 14, 2)
        return [*(centre - size / 2), *(centre + size / 2)]

    truth, found = [], []
    for _ in range(images):
        centres = generator.uniform(10, 50, (generator.integers(0, 4), 2))
        labels = generator.integers(1, 4, len(centres))
        truth.append([(box(c), int(k), bool(generator.random() < 0.25)) for c, k in zip(centres, labels, strict=True)])
        near = [(c + generator.normal(0, 1.5, 2), int(k)) for c, k in zip(centres, labels, strict=True) for _ in (0, 1)]
        near += [(generator.uniform(10, 50, 2), int(generator.integers(1, 4))) for _ in range(2)]
        found.append([(box(c), k, float(generator.random())) for c, k in near])
    return found, truth


def as_tensors(found, truth):
    rows = [
        {
            "boxes": torch.tensor([b for b, _, _ in image]).view(-1, 4),
            "labels": torch.tensor([k for _, k, _ in image]),
            "scores": torch.tensor([s for _, _, s in image]),
        }
        for image in found
    ]
    objects = [
        Objects(
            torch.tensor([b for b, _, _ in image]).view(-1, 4),
            torch.tensor([k for _, k, _ in image], dtype=torch.int64),
            torch.tensor([d for _, _, d in image], dtype=torch.bool),
            torch.zeros(len(image), dtype=torch.bool),
        )
        for image in truth
    ]
    return rows, objects


@pytest.mark.parametrize("seed", range(6))
def test_vocs_precision_is_the_loop(seed):
    found, truth = random_scenes(seed)
    got = voc_precision(*as_tensors(found, truth), 3)
    rows = [[voc_ap(found, truth, label, t) for t in THRESHOLDS] for label in (1, 2, 3)]
    mean = 100 * np.mean([row for row in rows if row[0] is not None], axis=0)
    assert got["ap"] == pytest.approx(mean.mean())
    assert got["ap50"] == pytest.approx(mean[0])
    assert got["ap75"] == pytest.approx(mean[5])
    assert got["ap50"] > got["ap75"]


def test_eleven_points_by_hand():
    # recall 1/2 at precision 1, then 1 at 2/3: six points of 1, five of 2/3
    assert eleven_points(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])) == pytest.approx((6 + 5 * 2 / 3) / 11)
    for hits in (1, 2, 3, 6, 7):  # a tenth is reached by so many of ten, whatever its rounding
        assert eleven_points(np.array([hits / 10]), np.array([1.0])) == pytest.approx((hits + 1) / 11)


@pytest.mark.parametrize(("threshold", "precision"), [(0.49, 100.0), (0.5, 0.0)])
def test_precision_asks_for_more_overlap_than_the_threshold(threshold, precision):
    found, truth = [[([0.0, 0.0, 1.0, 1.0], 1, 0.9)]], [[([0.0, 0.0, 2.0, 1.0], 1, False)]]  # half of the union
    assert voc_precision(*as_tensors(found, truth), 1, (threshold,))["ap"] == precision


def test_perfect_detections_and_none():
    _, truth = random_scenes(1)
    perfect = [[(box, label, 0.5 + i / 100) for i, (box, label, _) in enumerate(image)] for image in truth]
    assert voc_precision(*as_tensors(perfect, truth), 3) == {"ap": 100.0, "ap50": 100.0, "ap75": 100.0}
    assert voc_precision(*as_tensors([[] for _ in truth], truth), 3)["ap"] == 0.0
    with pytest.raises(ValueError, match="no object of the test images counts"):
        voc_precision(*as_tensors([[]], [[]]), 3)
    with pytest.raises(ValueError, match="expected detections of each image, got 0 for 0"):
        voc_precision([], [], 3)


def test_the_rate_warms_up_and_falls_twice():
    protocol = DETECTION_PROTOCOLS["voc"]
    rates = [protocol.learning_rate(i) for i in (0, 50, 100, 17_999, 18_000, 22_000)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 2e-3, 2e-4])
    assert protocol.short_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    short = protocol.shortened(240)
    assert (short.iterations, short.steps, short.warmup) == (240, (180, 220), 24)
    small = protocol.resized(200)
    assert (small.test_side, small.short_sides[0], small.max_side, small.anchors[0]) == (200, 120, 333, 8)
    assert DETECTION_PROTOCOLS["coco"].masks
    with pytest.raises(ValueError, match="iterations must be a whole number"):
        dataclasses.replace(SMALL, iterations=0)


def test_batches_visit_every_image_once_an_epoch():
    keys = list(batch_keys(5, 2, 10, seed=3))
    assert len(keys) == 10
    visited = [index for batch in keys for _, _, index in batch]
    for epoch in range(4):
        assert sorted(visited[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert visited[:5] != visited[5:10]


def test_mirrored_images_keep_their_boxes_on_the_rectangles(coco):
    data = read_coco(coco[0])
    images = BoxImages(data.train, True, 0)
    mirrored = 0
    for iteration in range(12):
        image, target = images[iteration, 0, 2]
        mirrored += target["boxes"].tolist() != data.train.objects[2].boxes.tolist()
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            x0, y0, x1, y1 = box.int().tolist()
            inside = image[:, y0:y1, x0:x1].float().mean((1, 2))
            assert torch.allclose(inside, torch.tensor(COLOURS[label - 1]).float(), atol=25)
            assert mask[y0:y1, x0:x1].all()
            assert mask.sum() == (y1 - y0) * (x1 - x0)
    assert 0 < mirrored < 12


def test_crowds_and_empty_boxes_are_not_trained_on(voc):
    data = load_boxes(f"voc07:{voc[0]}")
    first = data.train.objects[0]
    gone = [dataclasses.replace(first, crowd=torch.ones_like(first.crowd))]
    gone.append(dataclasses.replace(first, boxes=first.boxes[:, [0, 1, 0, 3]]))
    split = dataclasses.replace(data.train, objects=(*gone, *data.train.objects[2:]))
    assert len(with_objects(split)) == 6
    assert with_objects(split).files == data.train.files[2:]


@pytest.mark.parametrize(
    "network", [tiny_cnn, lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])]
)
def test_the_detector_is_the_resnet_cut_before_its_last_stage(network):
    resnet = network().eval()
    model = build_detector(resnet, 2, SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = model.roi_heads.box_head.stage.layer(model.backbone(images)).mean((2, 3))
        if isinstance(resnet, torchvision.models.ResNet):
            resnet.fc = nn.Identity()
            wanted = resnet(images)
        else:
            wanted = resnet.forward_head(resnet.forward_features(images), pre_logits=True)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert model.backbone(images).shape[-1] == 4  # stride 16
    with pytest.raises(ValueError, match="PlainNet has no conv1"):
        build_detector(PlainNet(), 2, SMALL)


def test_a_voc_detector_trains_all_layers_and_repeats_itself(voc):
    data = load_boxes(f"voc07:{voc[0]}")
    backbone = randomised(tiny_cnn(), 0.2)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    random = torch.get_rng_state()
    first, again = (train_detector(backbone, data, SMALL, seed=4) for _ in range(2))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    fresh = build_detector(backbone, 20, SMALL, 4).state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        if name.endswith("weight"):
            assert not torch.equal(value, fresh[name]), name
    found = detection_metrics(first, data, SMALL)
    assert set(found) == {"ap", "ap50", "ap75"}
    assert found == detection_metrics(again, data, SMALL)


def test_a_narrow_detector_finds_rectangles(voc):
    data = load_boxes(f"voc07:{voc[0]}")
    protocol = dataclasses.replace(SMALL, iterations=40, steps=(32,), warmup=5, precise=6, lr=0.1)
    torch.manual_seed(2)
    backbone = tiny_cnn()
    untrained = build_detector(backbone, 20, protocol).eval()
    trained = train_detector(backbone, data, protocol, seed=1)
    seen = dataclasses.replace(data, test=data.train)
    before, after = (detection_metrics(model, seen, protocol)["ap50"] for model in (untrained, trained))
    assert after > before + 20


def test_masks_are_trained_and_share_the_last_stage(coco):
    data = read_coco(coco[0])
    protocol = dataclasses.replace(SMALL, masks=True)
    model = train_detector(tiny_cnn(), data, protocol)
    heads = model.roi_heads
    assert heads.mask_head is heads.box_head.stage
    found = model([torch.rand(3, 64, 72)])[0]
    assert found["masks"].shape[1:] == (1, 64, 72)
    model.train()
    images, targets = next(box_batches(data.train, protocol, 1, 0, torch.device("cpu"), 0))
    assert model(images, targets)["loss_mask"].requires_grad
    boxes_only = dataclasses.replace(
        data.train, objects=tuple(dataclasses.replace(o, outlines=()) for o in data.train.objects)
    )
    with pytest.raises(ValueError, match="masks need outlines"):
        next(box_batches(boxes_only, protocol, 1, 0, torch.device("cpu"), 0))


def test_precise_statistics_are_means_over_batches():
    norm = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1))
    batches = [torch.randn(4, 3, 5, 5) * (i + 1) + i for i in range(3)]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, images, targets):
            return self.norm(images)

    precise_statistics(Two(), iter([(batch, None) for batch in batches]))
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    var = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    assert torch.allclose(norm[0].running_mean, mean, atol=1e-5)
    assert torch.allclose(norm[0].running_var, var, atol=1e-4)
    assert norm[0].momentum == 0.1


def test_a_broken_network_is_refused(voc):
    data = load_boxes(f"voc07:{voc[0]}")
    with pytest.raises((RuntimeError, AssertionError), match=r"not finite|NaN|nan"):
        train_detector(tiny_cnn(), data, dataclasses.replace(SMALL, lr=1e18, warmup=0))


@pytest.mark.skipif(find_spec("pycocotools") is not None, reason="pycocotools is there")
def test_cocos_precision_says_what_to_install():
    with pytest.raises(ImportError, match=r"install samix\[detection\]"):
        coco_precision([])


@pytest.mark.skipif(find_spec("pycocotools") is None, reason="needs pycocotools")
def test_run_lengths_are_cocos():
    from pycocotools import mask

    for seed in range(5):
        pixels = np.random.default_rng(seed).random((37, 53)) < (0.02, 0.2, 0.5, 0.9, 1.0)[seed]
        code = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        found = outline_mask({"counts": code["counts"].decode(), "size": [37, 53]}, 37, 53)
        assert np.array_equal(found.numpy(), pixels)


@pytest.mark.skipif(find_spec("pycocotools") is None, reason="needs pycocotools")
def test_cocos_precision_of_perfect_detections(coco):
    data = read_coco(coco[0])
    pairs = []
    for objects, (image, _, _) in zip(data.test.objects, coco[1]["val2017"], strict=True):
        masks = object_masks(objects, torch.zeros(3, *image.size[::-1]))
        truth = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.crowd.long(), "masks": masks}
        scores = torch.linspace(0.5, 1, len(objects.labels))
        pairs.append(({"boxes": objects.boxes, "labels": objects.labels, "scores": scores, "masks": masks}, truth))
    found = coco_precision(pairs, masks=True)
    assert set(found) == {"ap", "ap50", "ap75", "mask_ap", "mask_ap50", "mask_ap75"}
    assert list(found.values()) == pytest.approx([100.0] * 6)
    model = train_detector(tiny_cnn(), data, dataclasses.replace(SMALL, masks=True))
    assert set(detection_metrics(model, data, dataclasses.replace(SMALL, masks=True))) == set(found)


def test_overlap_of_the_oracle():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)


# ---------------------------------------------------------------------------------------------------------------------
# Names of weights.


@pytest.fixture(scope="module")
def resnet50():
    return torchvision.models.resnet50().eval()


def test_a_resnet50_has_as_many_names_as_known(resnet50):
    state = resnet50.state_dict()
    assert (len(state), len(to_torchvision(state))) == (320, 318)
    assert len(to_detectron2(state, counters=True)) == 318
    assert len(to_detectron2(state)) == 265


def test_the_names_are_detectron2s(resnet50):
    names = set(to_detectron2(resnet50.state_dict()))
    norm = ("weight", "bias", "running_mean", "running_var")
    known = {"stem.conv1.weight", *(f"stem.conv1.norm.{part}" for part in norm)}
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(blocks):
            layers = ["conv1", "conv2", "conv3"] + ["shortcut"] * (block == 0)
            for layer in layers:
                start = f"res{stage}.{block}.{layer}"
                known |= {f"{start}.weight", *(f"{start}.norm.{part}" for part in norm)}
    assert names == known


def test_there_and_back(resnet50):
    state = to_torchvision(resnet50.state_dict())
    back = from_detectron2(to_detectron2(state, counters=True))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_projectors_and_prefixes_are_taken_away(resnet50):
    inner = resnet50.state_dict()
    state = {f"module.encoder_q.{name}": value for name, value in inner.items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(2), "module.queue": torch.zeros(3)}
    assert find_prefix(state) == "module.encoder_q."
    assert set(to_torchvision(state)) == set(to_torchvision(inner))
    assert not any("fc" in name or "queue" in name for name in to_detectron2(state))
    both = {**state, **{name.replace("_q", "_k"): value for name, value in state.items()}}
    with pytest.raises(ValueError, match=r"expected one ResNet, found 2: 'module.encoder_k.', 'module.encoder_q.'"):
        to_detectron2(both)
    assert set(to_torchvision(both, "module.encoder_k.")) == set(to_torchvision(inner))


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"found 0: no layer1.0.conv1.weight"):
        to_detectron2(PlainNet().state_dict())
    with pytest.raises(
        ValueError, match=r"not the weights of a plain ResNet with four stages; it has 'conv1.0.weight'"
    ):
        to_detectron2(tiny_cnn().state_dict())
    with pytest.raises(ValueError, match=r"nothing like it begins with 'x.'"):
        to_detectron2(tiny_cnn().state_dict(), "x.")


def test_the_file_holds_plain_tensors(resnet50, tmp_path):
    save_detectron2(tmp_path / "r50.pth", resnet50.state_dict())
    content = torch.load(tmp_path / "r50.pth", weights_only=True)
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    assert torch.equal(content["model"]["res5.2.conv3.weight"], resnet50.layer4[2].conv3.weight)
    with pytest.raises(ValueError, match=r"by the ending .pth, got r50.pkl"):
        save_detectron2(tmp_path / "r50.pkl", resnet50.state_dict())


def test_a_timm_backbone_loads_into_torchvisions_and_agrees(resnet50):
    backbone = timm.create_model("resnet50", num_classes=0).eval()
    inside = {f"encoder.model.{name}": value for name, value in backbone.state_dict().items()}
    resnet50.fc = nn.Identity()
    resnet50.load_state_dict(to_torchvision(inside), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(resnet50(images), backbone(images), atol=1e-5)
