"""Images: kornia's morphology, colours, thresholds, filters and metrics."""

from __future__ import annotations

import kornia
import torch
from cases import add, images, rows, seeded

K = torch.ones(3, 3, dtype=torch.float64)
target = torch.rand(1, 1, 6, 6, generator=seeded(5), dtype=torch.float64)
weight = torch.rand(1, 1, 6, 6, generator=seeded(6), dtype=torch.float64)
colour = torch.rand(1, 3, 3, 3, generator=seeded(8), dtype=torch.float64)
fixed = torch.rand(1, 4, 3, 4, generator=seeded(9), dtype=torch.float64)
labels = torch.arange(12).reshape(1, 3, 4) % 4
m = kornia.morphology


def binary(x):
    return (x > 0.5).to(x.dtype)


add(
    "kornia",
    images(1, 1, 6, 6),
    {
        "dilation of a mask": lambda x: (m.dilation(binary(x), K) * weight).sum(),
        "erosion of a mask": lambda x: (m.erosion(binary(x), K[:2, :2]) * weight).sum(),
        "opening of a mask": lambda x: (m.opening(binary(x), K[:2, :2]) * weight).sum(),
        "closing of a mask": lambda x: (m.closing(binary(x), K[:2, :2]) * weight).sum(),
        "gradient of a mask": lambda x: (m.gradient(binary(x), K) * weight).sum(),
        "top_hat of a mask": lambda x: (m.top_hat(binary(x), K[:2, :2]) * weight).sum(),
        "bottom_hat of a mask": lambda x: (m.bottom_hat(binary(x), K[:2, :2]) * weight).sum(),
        "dilation of grey values": lambda x: (m.dilation(x, K) * weight).sum(),
        "solarize": lambda x: (kornia.enhance.solarize(x, 0.5) * weight).sum(),
        "threshold": lambda x: (kornia.enhance.threshold(x, 0.5) * weight).sum(),
        "equalize": lambda x: (kornia.enhance.equalize(x) * weight).sum(),
        "in_range": lambda x: (
            kornia.filters.in_range(x.expand(1, 3, 6, 6), (0.2,) * 3, (0.7,) * 3).double() * weight
        ).sum(),
        "otsu_threshold": lambda x: (kornia.filters.otsu_threshold(x, nbins=8)[0] * weight).sum(),
        "median_blur": lambda x: (kornia.filters.median_blur(x, 3) * weight).sum(),
        "canny": lambda x: (kornia.filters.canny(x, 0.1, 0.4, hysteresis=False)[1] * weight).sum(),
        "median_blur of a mask": lambda x: (kornia.filters.median_blur(binary(x), 3) * weight).sum(),
        "box_blur of a mask > .5": lambda x: ((kornia.filters.box_blur(binary(x), 3) > 0.5) * weight).sum(),
        "gaussian_blur2d of a mask": lambda x: (
            kornia.filters.gaussian_blur2d(binary(x), (3, 3), (1.0, 1.0)) * weight
        ).sum(),
        "max_blur_pool2d of a mask": lambda x: kornia.filters.max_blur_pool2d(binary(x), 3).square().sum(),
        "connected_components": lambda x: (
            (kornia.contrib.connected_components(binary(x), num_iterations=6) > 0).double().mul(weight).sum()
        ),
        "distance_transform of a mask": lambda x: (kornia.contrib.distance_transform(binary(x)) * weight).sum(),
        "psnr of a mask": lambda x: kornia.metrics.psnr(binary(x), target, 1.0),
        "ssim of a mask": lambda x: kornia.metrics.ssim(binary(x), target, 5).sum(),
        "lovasz_hinge_loss": lambda x: kornia.losses.lovasz_hinge_loss(x * 4 - 2, (target[0] > 0.5).long()),
        "total_variation of a mask": lambda x: kornia.losses.total_variation(binary(x)).sum(),
        "remap nearest": lambda x: (
            kornia.geometry.transform.remap(target, x[0] * 6, x[0].mT * 6, mode="nearest") * weight
        ).sum(),
        "nms2d": lambda x: kornia.geometry.subpix.nms2d(x, (3, 3), mask_only=True).double().mul(weight).sum(),
    },
)
add(
    "kornia",
    images(1, 3, 3, 3),
    {
        "rgb_to_hsv": lambda x: (kornia.color.rgb_to_hsv(x) * colour).sum(),
        "rgb_to_hls": lambda x: (kornia.color.rgb_to_hls(x) * colour).sum(),
        "hsv_to_rgb": lambda x: (kornia.color.hsv_to_rgb(x) * colour).sum(),
        "rgb_to_lab": lambda x: (kornia.color.rgb_to_lab(x) * colour).sum(),
        "rgb_to_linear_rgb": lambda x: (kornia.color.rgb_to_linear_rgb(x) * colour).sum(),
        "rgb_to_luv": lambda x: (kornia.color.rgb_to_luv(x) * colour).sum(),
    },
)
add(
    "kornia",
    rows(12, 4),
    {
        "confusion_matrix of argmax": lambda p: kornia.metrics.confusion_matrix(
            p.argmax(1)[None], labels.reshape(1, -1), 4
        )[0, 1, 1].double(),
        "mean_iou of argmax": lambda p: kornia.metrics.mean_iou(p.argmax(1)[None], labels.reshape(1, -1), 4).sum(),
        "accuracy": lambda p: kornia.metrics.accuracy(p, labels.reshape(-1))[0].sum(),
        "one_hot of argmax": lambda p: (
            kornia.losses.one_hot(p.argmax(1).reshape(1, 3, 4), 4, p.device, p.dtype) * fixed
        ).sum(),
        "lovasz_softmax_loss": lambda p: kornia.losses.lovasz_softmax_loss(p.T.reshape(1, 4, 3, 4), labels),
        "match_nn": lambda p: kornia.feature.match_nn(p[:6], p[6:])[0].sum(),
        "match_mnn": lambda p: kornia.feature.match_mnn(p[:6], p[6:])[0].sum(),
        "match_snn": lambda p: kornia.feature.match_snn(p[:6], p[6:], 0.8)[0].sum(),
        "bbox.nms": lambda p: (
            kornia.geometry.bbox.nms(
                torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [0, 1, 2, 3], [4, 4, 5, 5]], dtype=p.dtype), p[0], 0.2
            )
            .double()
            .sum()
            .mul(p[0, 0])
        ),
    },
)
add(
    "kornia",
    images(1, 1, 6, 6),
    {"posterize": lambda x: (kornia.enhance.posterize(x, 3) * weight).sum()},
    eps=0.2,  # of 255 levels
)
