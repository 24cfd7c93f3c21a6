"""The equations of AutoMix and SAMix in plain loops over NumPy numbers (float64): slow, and easy to check by eye.

Nothing here is shared with the library: pairs are really concatenated, the softmax is written out, BatchNorm is two
sums.
"""

import math

import numpy as np

Array = np.ndarray


def weights_of(module) -> dict[str, Array]:
    """Every parameter and buffer as float64 arrays."""
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


# Masks ---------------------------------------------------------------------------------------------------------------


def conv1x1(z: Array, weight: Array, bias: Array | None = None) -> Array:
    """(C, h, w) -> (C', h, w), one cell at a time; weight is (C', C, 1, 1)."""
    out = np.zeros((len(weight), *z.shape[1:]))
    for row in range(z.shape[1]):
        for column in range(z.shape[2]):
            out[:, row, column] = weight[:, :, 0, 0] @ z[:, row, column] + (0.0 if bias is None else bias)
    return out


def attended(query: Array, key: Array, content: Array) -> Array:
    """t_p = sum_r softmax_r(q_p . k_r / sqrt(d)) c_r: one logit per own cell p, from the partner's cells r."""
    width, height, breadth = query.shape
    queries, keys, contents = query.reshape(width, -1), key.reshape(width, -1), content.reshape(-1)
    logits = np.zeros(queries.shape[1])
    for p in range(queries.shape[1]):
        scores = [float(queries[:, p] @ keys[:, r]) / math.sqrt(width) for r in range(keys.shape[1])]
        powers = [math.exp(score - max(scores)) for score in scores]
        logits[p] = sum(power * value for power, value in zip(powers, contents, strict=True)) / sum(powers)
    return logits.reshape(height, breadth)


def upsampled(logit: Array, size: tuple[int, int], mode: str) -> Array:
    """(h, w) -> (H, W); pixel centres lie at (p + 1/2) h / H, clamped at the border."""
    h, w = logit.shape
    out = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (row + 0.5) * h / size[0], (column + 0.5) * w / size[1]
            if mode == "nearest":
                out[row, column] = logit[min(int(y), h - 1), min(int(x), w - 1)]
                continue
            y, x = max(y - 0.5, 0.0), max(x - 0.5, 0.0)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            upper = logit[top, left] * (1 - (x - left)) + logit[top, right] * (x - left)
            lower = logit[bottom, left] * (1 - (x - left)) + logit[bottom, right] * (x - left)
            out[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return out


def sigmoid(t: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-t))


def automixer_masks(
    own: Array,
    partner: Array,
    lam: Array,
    weights: dict[str, Array],
    size: tuple[int, int],
    *,
    lam_channel: bool,
    upsample: str,
) -> Array:
    """AutoMix's Mix Block: (B, D, h, w) twice -> the own masks (B, 1, H, W)."""
    masks = np.zeros((len(own), 1, *size))
    for b in range(len(own)):
        z_i, z_j = own[b], partner[b]
        if lam_channel:
            z_i = np.concatenate([z_i, np.full((1, *z_i.shape[1:]), lam[b])])
            z_j = np.concatenate([z_j, np.full((1, *z_j.shape[1:]), 1.0 - lam[b])])
        query = conv1x1(z_i, weights["query_key.weight"], weights["query_key.bias"])
        key = conv1x1(z_j, weights["query_key.weight"], weights["query_key.bias"])
        content = conv1x1(z_j, weights["value.weight"], weights["value.bias"])
        s_j = sigmoid(upsampled(attended(query, key, content), size, upsample))
        masks[b, 0] = 1.0 - s_j
    return masks


def scaled_lam(lam: float, k: float) -> float:
    kappa = k + 1.0
    return lam if k == -1 else (4 / 3 * lam**3 - 2 * lam**2 + kappa * lam) / (kappa - 2 / 3)


def normed(hidden: Array, weights: dict[str, Array], norm: str, training: bool) -> Array:
    """BatchNorm (the batch's moments, or the running ones) or layer norm over channels of (B, d, h, w)."""
    out = np.zeros_like(hidden)
    batch, width, height, breadth = hidden.shape
    if norm == "layer":
        for b in range(batch):
            for row in range(height):
                for column in range(breadth):
                    v = hidden[b, :, row, column]
                    mean = sum(v) / width
                    var = sum((v - mean) ** 2) / width
                    out[b, :, row, column] = (v - mean) / math.sqrt(var + 1e-5)
    else:
        for c in range(width):
            mean, var = weights["norm.running_mean"][c], weights["norm.running_var"][c]
            if training:
                mean = hidden[:, c].sum() / hidden[:, c].size
                var = ((hidden[:, c] - mean) ** 2).sum() / hidden[:, c].size
            out[:, c] = (hidden[:, c] - mean) / math.sqrt(var + 1e-5)
    return out * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]


def samixer_masks(
    own: Array,
    partner: Array,
    lam: Array,
    weights: dict[str, Array],
    size: tuple[int, int],
    *,
    gamma: float,
    lam_scale: float,
    activation: str,
    norm: str,
    upsample: str,
    scale_content: bool,
    training: bool,
) -> Array:
    """SAMix's Mixer: (B, D, h, w) twice -> the own masks (B, 1, H, W)."""
    scaled = [scaled_lam(float(value), lam_scale) for value in lam]
    a = np.stack([(1.0 + gamma * s) * z for s, z in zip(scaled, own, strict=True)])
    b = np.stack([(1.0 + gamma * (1.0 - s)) * z for s, z in zip(scaled, partner, strict=True)])
    hidden = np.stack([conv1x1(z, weights["value.weight"]) for z in (b if scale_content else partner)])
    hidden = normed(hidden, weights, norm, training)
    hidden = np.where(hidden > 0, hidden, np.exp(np.minimum(hidden, 0)) - 1.0 if activation == "elu" else 0.0)
    masks = np.zeros((len(own), 1, *size))
    for n in range(len(own)):
        u = np.concatenate([a[n], b[n]])
        query = conv1x1(u, weights["query.weight"], weights["query.bias"])
        key = conv1x1(u, weights["key.weight"], weights["key.bias"])
        content = conv1x1(hidden[n], weights["value_out.weight"])
        masks[n, 0] = 1.0 - sigmoid(upsampled(attended(query, key, content), size, upsample))
    return masks


def adjusted_mask(mask: Array, lam: float) -> Array:
    """One mask (1, H, W) rescaled to mean lam, by the two cases of SAMix's lambda adjusting."""
    mean = mask.mean()
    if mean > lam:
        return mask * lam / mean
    if mean < lam:
        return 1.0 - (1.0 - mask) * (1.0 - lam) / (1.0 - mean)
    return mask


# Losses --------------------------------------------------------------------------------------------------------------


def log_softmax(logits: Array) -> Array:
    top = max(logits)
    return np.array([u - top - math.log(sum(math.exp(v - top) for v in logits)) for u in logits])


def cross_entropy(logits: Array, target: Array) -> float:
    """Against a soft target (K,)."""
    return -sum(t * lp for t, lp in zip(target, log_softmax(logits), strict=True))


def two_hot(a: int, b: int, lam: float, classes: int, smoothing: float = 0.0) -> Array:
    target = np.zeros(classes)
    target[a] += lam
    target[b] += 1.0 - lam
    return (1.0 - smoothing) * target + smoothing / classes


def mixed_cross_entropy(logits: Array, a: Array, b: Array, lam: Array, smoothing: float = 0.0) -> float:
    classes = logits.shape[1]
    losses = [
        cross_entropy(u, two_hot(i, j, share, classes, smoothing))
        for u, i, j, share in zip(logits, a, b, lam, strict=True)
    ]
    return sum(losses) / len(losses)


def local_cross_entropy(logits: Array, a: Array, b: Array, lam: Array) -> float:
    """-lam log p - (1 - lam) log(1 - p), p the two-way softmax of a and b, over pairs of two classes."""
    total = count = 0.0
    for u, i, j, share in zip(logits, a, b, lam, strict=True):
        if i != j:
            log_p = log_softmax(np.array([u[i], u[j]]))
            total += -share * log_p[0] - (1.0 - share) * log_p[1]
            count += 1.0
    return total / max(count, 1.0)


def mask_mean_loss(mask: Array, lam: Array, margin: float, over_batch: bool) -> float:
    if over_batch:
        return max(abs(mask.mean() - lam.mean()) - margin, 0.0)
    return sum(max(abs(m.mean() - share) - margin, 0.0) for m, share in zip(mask, lam, strict=True)) / len(mask)


def mask_variance(mask: Array, over_batch: bool) -> float:
    if over_batch:
        return float(((mask - mask.mean()) ** 2).mean())
    return sum(float(((m - m.mean()) ** 2).mean()) for m in mask) / len(mask)


# Losses of mixed batches: a sample is logits (K,) and its target, or its two classes and their shares ---


def soft_cross_entropy(logits: Array, target: Array) -> float:
    return sum(cross_entropy(u, t) for u, t in zip(logits, target, strict=True)) / len(logits)


def binary_cross_entropy(logits: Array, target: Array, threshold: float | None, sum_classes: bool) -> float:
    total = 0.0
    for u, t in zip(logits.ravel(), target.ravel(), strict=True):
        t = t if threshold is None else float(t > threshold)
        p = 1 / (1 + math.exp(-u))
        total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    return total / (len(logits) if sum_classes else logits.size)


def softmax_bce(logits: Array, target: Array) -> float:
    total = 0.0
    for u, t in zip(logits, target, strict=True):
        for p, share in zip(np.exp(log_softmax(u)), t, strict=True):
            total -= share * math.log(p) + (1 - share) * math.log(1 - p)
    return total / logits.size


def rescaled(lam: float, power: float, threshold: float) -> float:
    return (lam / threshold) ** power if lam < threshold else 1.0


def decoupled_term(logits: Array, a: Array, b: Array, lam: Array, power: float, threshold: float) -> float:
    """Mean over all samples of r(lam) l_a + r(1 - lam) l_b, nothing for pairs of one class and unmixed samples."""
    total = 0.0
    for u, i, j, share in zip(logits, a, b, lam, strict=True):
        if i == j or share in (0.0, 1.0):
            continue
        for own, other, weight in ((i, j, share), (j, i, 1 - share)):
            rest = math.log(sum(math.exp(v) for k, v in enumerate(u) if k != other))
            total += rescaled(weight, power, threshold) * (rest - u[own])
    return total / len(logits)


# Adversarial AutoMix -------------------------------------------------------------------------------------------------


def adversarial_masks(
    maps: list[Array], lam: Array, weights: dict[str, Array], size: tuple[int, int], *, lam_channel: bool, upsample: str
) -> Array:
    """S feature maps (B, D, h, w) and shares (B, S) -> masks (B, S, H, W) that sum to 1."""
    masks = np.zeros((len(lam), len(maps), *size))
    for b in range(len(lam)):
        queries, keys, contents = [], [], []
        for s, z in enumerate(maps):
            u = z[b]
            if lam_channel:
                u = np.concatenate([u, np.full((1, *u.shape[1:]), lam[b, s])])
            queries.append(np.maximum(conv1x1(u, weights["query.weight"], weights["query.bias"]), 0))
            keys.append(np.maximum(conv1x1(u, weights["key.weight"], weights["key.bias"]), 0))
            contents.append(conv1x1(u, weights["value.weight"]))
        logits = []
        for s in range(len(maps)):
            others = np.zeros_like(keys[0])
            for j in range(len(maps)):
                if j != s:
                    others = others + keys[j]
            logits.append(upsampled(attended(queries[s], others, contents[s]), size, upsample))
        for row in range(size[0]):
            for column in range(size[1]):
                masks[b, :, row, column] = np.exp(log_softmax(np.array([t[row, column] for t in logits])))
    return masks


def cosine(a: Array, b: Array) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
