"""Pseudo labels for images without labels: online deep clustering of a memory of features.

ODC (Zhan et al. 2020, arXiv:2006.10645): every image's feature is kept in a bank and moves with training; labels follow
at each step, centroids and small clusters are seen to now and then, so that there is no pass over the data between
epochs. SAMix-C (Li et al. 2022, arXiv:2111.15454) takes its labels.

Letters: N images, D embedding, C clusters, B batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from samix.losses.contrastive import normalized
from samix.methods.contrastive.kmeans import cut_in_two, kmeans, means_of_members
from samix.mixups.base import to_device
from samix.networks.inference import evaluating
from samix.runtime import distributed
from samix.runtime.checks import Range
from samix.runtime.typed_options import AtLeast2, CheckedOptions, Count, CountOr0, Share, Weight


@dataclass(frozen=True)
class ClusterOptions(CheckedOptions):
    """Options of the clusters that give pseudo labels.

    Args:
        clusters: C, at most half the number of training images.
        bank_momentum: share of the new feature in an image's row of the bank, in [0, 1]. ODC: 0.5; 1 where the features
            come from an EMA encoder.
        min_cluster: clusters of fewer images are given up and refilled; None is 0.3 N / C, at least 1.
        centroid_every: steps between new centroids; 0 is a twentieth of an epoch. ODC: 10.
        repair_every: steps between looks for small clusters; 0 is a hundredth of an epoch. ODC: 1.
        reweight: p of the class weights n_c^-p in the clusters' losses; 0 weighs all alike.
        warmup_epochs: epochs before the first clusters are made of the features seen so far; with 0 they must be made
            before the first step, which ``samix pretrain`` does by a pass over the training images.
        cluster_seed: of k-means and of ties that are broken at random.
    """

    clusters: AtLeast2 = 200
    bank_momentum: Share = 1.0
    min_cluster: Count | None = None
    centroid_every: CountOr0 = 0
    repair_every: CountOr0 = 0
    reweight: Weight = 0.5
    warmup_epochs: CountOr0 = 5
    cluster_seed: Annotated[int, Range(0, 2**32 - 1)] = 0


class OnlineClusters(nn.Module):
    """A bank of features with cluster labels that follow it (ODC, arXiv:2006.10645, section 3). All of it is state.

    Until :meth:`initialise` the bank only collects. Several processes gather what each has seen and then do the same,
    so that all keep the same bank. No step waits for the device, but those on which maintenance is due.

    Args:
        images: N, number of training images.
        dim: D.
        options: see :class:`ClusterOptions`.
    """

    equal_on_all: ClassVar[bool] = True  # processes: each takes in what all have seen

    bank: Tensor  # (N, D) float32 unit rows; 0 for images not seen yet
    labels: Tensor  # (N,) int64
    centroids: Tensor  # (C, D) means of members, not of unit length
    weights: Tensor  # (C,) class weights, sum 1
    steps: Tensor  # () int64
    started: Tensor  # () bool

    def __init__(self, images: int, dim: int, options: ClusterOptions | None = None) -> None:
        super().__init__()
        o = ClusterOptions() if options is None else options
        if images < 2 * o.clusters:
            raise ValueError(
                f"{o.clusters} clusters need at least {2 * o.clusters} training images, got {images}; "
                "take fewer clusters"
            )
        self.options, self.images, self.dim = o, images, dim
        self.min_cluster = max(int(0.3 * images / o.clusters), 1) if o.min_cluster is None else o.min_cluster
        if 2 * self.min_cluster * o.clusters > images:
            raise ValueError(
                f"{o.clusters} clusters of at least {self.min_cluster} images would bind more than half of the "
                f"{images} images; take min_cluster of at most {images // (2 * o.clusters)}, or fewer clusters"
            )
        self.register_buffer("bank", torch.zeros(images, dim))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(o.clusters, dim))
        self.register_buffer("weights", torch.full((o.clusters,), 1.0 / o.clusters))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._on_host: tuple[int, bool] | None = (0, False)  # steps and started, so that no step waits for them

    # Each step --------------------------------------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """Whether the first clusters must be made before the first step, see :meth:`initialise_from`."""
        return not self.options.warmup_epochs and not bool(self.started)

    @property
    def running(self) -> bool:
        """Whether there are clusters yet."""
        running = self._host()[1]
        if not running and self.options.warmup_epochs == 0:
            raise ValueError(
                "without a warm-up the first clusters must be made before the first step: "
                "method.clusters.initialise_from(method.teacher, batches), batches of (images, ids)"
            )
        return running

    def rows(self, ids: Tensor | None, batch_size: int) -> Tensor:
        """The images' rows as (B,) int64 on the bank's device; values are looked at on the CPU only."""
        if ids is None:
            raise ValueError(
                "clusters need to know which images these are: give batches (view_q, view_k, ids), ids (B,) the "
                f"images' rows in the data, 0 to {self.images - 1}"
            )
        if ids.shape != (batch_size,) or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"ids must be ({batch_size},) integers, got {ids.dtype} {tuple(ids.shape)}")
        if ids.device.type == "cpu":
            low, high = (int(end) for end in torch.aminmax(ids))
            if low < 0 or high >= self.images:
                raise ValueError(
                    f"ids must be rows 0 to {self.images - 1} of the {self.images} training images, got values from "
                    f"{low} to {high}; was the method made for other data?"
                )
        return to_device(ids.long(), self.bank.device)

    @torch.no_grad()
    def step(self, ids: Tensor, features: Tensor) -> Tensor:
        """Takes in what this step has seen and, when it is due, makes the first clusters or maintains them.

        Args:
            ids: (B,) rows, from :meth:`rows`.
            features: (B, D) unit vectors of this process, of images that are not mixed.

        Returns:
            Scalar: share of these images whose label has changed; 0 before there are clusters.
        """
        (count, _), running = self._host(), self.running
        ids, features = distributed.gather(ids), distributed.gather(features.detach())
        changed = self.update_samples(ids, features)
        epoch = max(self.images // len(ids), 1)
        count += 1
        if not running:
            if count >= self.options.warmup_epochs * epoch:
                self.initialise()
                running = True
        else:
            if count % (self.options.centroid_every or max(epoch // 20, 1)) == 0:
                self.update_centroids()
            if count % (self.options.repair_every or max(epoch // 100, 1)) == 0:
                self.repair()
                self.update_weights()
        self._set_host(count, running)
        return changed

    @torch.no_grad()
    def update_samples(self, ids: Tensor, features: Tensor) -> Tensor:
        """``bank <- norm((1 - m) bank + m feature)`` of these rows, and their nearest centroid as label.

        Nearest by dot product with the mean of the members, which is not of unit length: tight clusters win, as in ODC.
        Where an image comes twice the last one counts.

        Args:
            ids: (B,) int64 rows.
            features: (B, D).

        Returns:
            Scalar: share of changed labels; 0 before there are clusters.
        """
        order = torch.argsort(ids, stable=True)
        last = order[torch.searchsorted(ids[order], ids, right=True) - 1]  # of each image's, so that all write the same
        features = normalized(features).to(self.bank.dtype)[last]
        mixed = torch.lerp(self.bank[ids], features, self.options.bank_momentum)
        length = mixed.norm(dim=1, keepdim=True)
        unit = mixed / length.clamp(min=1e-12)
        self.bank[ids] = torch.where(length > 1e-6, unit, features if self.options.bank_momentum else mixed)
        if not self._host()[1]:
            return self.bank.new_zeros(())
        before = self.labels[ids]
        self.labels[ids] = self.nearest(self.bank[ids])
        return (self.labels[ids] != before).float().mean()

    def nearest(self, features: Tensor, centroids: Tensor | None = None) -> Tensor:
        """(B, D) -> (B,) int64: the centroid of the largest dot product."""
        with torch.autocast(features.device.type, enabled=False):
            return (features @ (self.centroids if centroids is None else centroids).T).argmax(1)

    # Maintenance ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, features: Tensor | None = None) -> None:
        """Makes the first clusters by k-means, then refills small ones.

        Images that have not been seen stand for one that has, drawn at random, until their turn comes.

        Args:
            features: (N, D) of all training images by row, of any length; None takes those collected so far.
        """
        if features is not None:
            if features.shape != self.bank.shape or not bool(features.isfinite().all()):
                raise ValueError(
                    f"features must be finite and {tuple(self.bank.shape)}, a row for each training image, "
                    f"got {tuple(features.shape)}"
                )
            self.bank.copy_(normalized(features))
        known = (self.bank != 0).any(1)
        seen = known.nonzero().squeeze(1)
        if len(seen) < 2 * self.options.clusters:
            raise ValueError(
                f"{self.options.clusters} clusters need {2 * self.options.clusters} images, of which {len(seen)} have "
                "been seen; take warmup_epochs of 1 or more, or call initialise(features) before the first step"
            )
        partition = kmeans(self.bank[seen], self.options.clusters, self.options.cluster_seed)
        unseen = (~known).nonzero().squeeze(1)
        donors = torch.randint(len(seen), (len(unseen),), generator=self._generator()).to(seen.device)
        self.labels[seen] = distributed.from_first(partition.labels)
        self.bank[unseen], self.labels[unseen] = self.bank[seen[donors]], self.labels[seen[donors]]
        self.centroids.copy_(distributed.from_first(partition.centres))
        self.update_centroids()
        self.repair()
        self.update_weights()
        self._set_host(self._host()[0], True)

    @torch.no_grad()
    def initialise_from(self, encoder: nn.Module, batches: Iterable[Sequence[Tensor]]) -> None:
        """The same from one pass over the data, in eval mode; the encoder is left as it was.

        Args:
            encoder: maps (B, C, H, W) to (B, D); a method's ``teacher``.
            batches: of images (B, C, H, W) as they are evaluated, and their rows ids (B,). Of several processes each
                brings its share.
        """
        features = torch.zeros_like(self.bank)
        with evaluating(encoder):
            for images, ids in batches:
                features[self.rows(ids, len(images))] = encoder(images).to(features.dtype)
        self.initialise(distributed.total(features))

    def counts(self) -> Tensor:
        """(C,) int64: images in each cluster; their sum is N."""
        zeros = torch.zeros_like(self.weights, dtype=torch.int64)
        return zeros.index_add_(0, self.labels, torch.ones_like(self.labels))

    @torch.no_grad()
    def update_centroids(self) -> None:
        """Each centroid becomes the mean of its members' rows; an empty cluster keeps its own."""
        counts = self.counts()
        means = means_of_members(self.bank, self.labels, counts)
        self.centroids.copy_(torch.where(counts.unsqueeze(1) > 0, means, self.centroids))

    @torch.no_grad()
    def repair(self) -> None:
        """Gives up clusters below ``min_cluster`` and refills them from the largest ones; waits for the device.

        Members of a small cluster go to the nearest of those that are not small. Then, for each that was emptied, the
        cluster that is the largest by then is cut in two by 2-means (at random halves where that leaves a part empty).
        Several processes go by the first one's labels, lest processors that round otherwise part ways here.
        """
        distributed.from_first(self.labels)
        counts = self.counts().tolist()
        small = [c for c, count in enumerate(counts) if count < self.min_cluster]
        if not small:
            return
        normal = torch.tensor([c for c, count in enumerate(counts) if count >= self.min_cluster]).to(self.labels.device)
        members = torch.isin(self.labels, torch.tensor(small).to(self.labels.device)).nonzero().squeeze(1)
        if len(members):
            self.labels[members] = normal[self.nearest(self.bank[members], self.centroids[normal])]
        counts = self.counts().tolist()
        for empty in small:
            largest = max(range(len(counts)), key=counts.__getitem__)
            counts[empty] = self._split(largest, empty)
            counts[largest] -= counts[empty]

    def _split(self, largest: int, empty: int) -> int:
        """Cuts a cluster in two, the second part under the empty one's name; returns the size of that part."""
        members = (self.labels == largest).nonzero().squeeze(1)
        part = distributed.from_first(cut_in_two(self.bank[members], self._generator())).bool()
        self.labels[members[part]] = empty
        self.centroids[empty] = self.bank[members[part]].mean(0)
        self.centroids[largest] = self.bank[members[~part]].mean(0)
        return int(part.sum())

    @torch.no_grad()
    def update_weights(self) -> None:
        """Class weights ``(n_c + 1e-5)^-p``, divided by their sum (ODC, section 3.3)."""
        weights = (self.counts().float() + 1e-5) ** -self.options.reweight
        self.weights.copy_(weights / weights.sum())

    # State ------------------------------------------------------------------------------------------------------------

    def _generator(self) -> torch.Generator:
        """The same draws on every process and in every run."""
        return torch.Generator().manual_seed(self.options.cluster_seed)

    def _host(self) -> tuple[int, bool]:
        """Steps done and whether there are clusters; read from the device only after loading."""
        if self._on_host is None:
            self._on_host = int(self.steps), bool(self.started)
        return self._on_host

    def _set_host(self, count: int, running: bool) -> None:
        self._on_host = count, running
        self.steps.fill_(count)
        self.started.fill_(running)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        """Reads steps and started anew at the next step."""
        super()._load_from_state_dict(*args, **kwargs)
        self._on_host = None
