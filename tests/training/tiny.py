"""Tiny data and configurations of all families, for tests that train in fractions of a second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMMON: dict[str, Any] = {
    "data.resolution": 16,
    "train.kimg": 0.024,
    "train.batch": 2,
    "train.state_kimg": 0.006,
    "train.sample_kimg": 0.012,
    "train.log_kimg": 0.004,
    "train.ema_kimg": 0.01,
    "train.precision": "float32",
    "train.threads": 1,
    "data.workers": 1,
    "augment.flip": True,
    "augment.enlarge": 1.25,
}
NOISE = {"generator.width": 4, "generator.max_width": 8, "generator.latent_dim": 8}
CRITIC = {"discriminator.width": 4, "discriminator.max_width": 8}
CHANNELS = {
    f"{player}.{key}": value
    for player in ("generator", "discriminator")
    for key, value in (("channel_base", 64), ("max_width", 8))
}
# name -> (recipe, option of the data, settings); each kind of model with what it alone keeps from step to step
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "unconditional": (
        "dcgan-small",
        "images",
        {**NOISE, **CRITIC, "loss.penalties": ["r1"], "loss.penalties.r1.every": 4},
    ),
    "conditional": (
        "cgan-projection-small",
        "classes",
        # states are saved after every sixth discriminator step, p is moved after every fourth
        {
            **NOISE,
            **CRITIC,
            "train.critic_steps": 2,
            "augment.discriminator": "ada",
            "augment.p": 0.5,
            "augment.speed_kimg": 0.05,
        },
    ),
    "pix2pix": (
        "pix2pix-small",
        "pairs",
        {"generator.width": 4, "generator.depth": 3, "discriminator.width": 4, "discriminator.layers": 1},
    ),
    # two sizes, matched in every layer; the global generator first at 8 pixels, states at 6 images in the fade to 16
    "pix2pixhd": (
        "pix2pixhd-small",
        "pairs",
        {
            "generator.width": 4,
            "generator.blocks": 1,
            "generator.local_blocks": 1,
            "generator.downsamplings": 1,
            "discriminator.width": 4,
            "discriminator.layers": 1,
            "augment.discriminator": "diffaugment",
            "growth.start": 8,
            "growth.stable_kimg": 0.004,
            "growth.fade_kimg": 0.006,
        },
    ),
    # label maps: the colours of the three classes are found in whatever there is
    "spade": (
        "spade-small",
        "pairs",
        {
            "data.labels": 3,
            "generator.width": 2,
            "generator.hidden": 4,
            "generator.downsamplings": 2,
            "generator.norm": "batch",
            "discriminator.width": 4,
            "discriminator.layers": 1,
        },
    ),
    "cyclegan": (
        "cyclegan-small",
        "unpaired",
        {
            "generator.width": 4,
            "generator.blocks": 1,
            "discriminator.width": 4,
            "discriminator.layers": 1,
            "train.image_pool": 5,
        },
    ),
    # heads, keyed places, half the pictures mirrored, identities
    "cut": (
        "fastcut-small",
        "unpaired",
        {
            "generator.width": 4,
            "generator.blocks": 1,
            "discriminator.width": 4,
            "discriminator.layers": 1,
            "projection.layers": [0, 1, 3],
            "projection.width": 8,
            "projection.patches": 16,
            "loss.nce_identity": 1.0,
        },
    ),
    # 4, 8 and 16 pixels; states are saved at 8 images, in the first fade, at 12, and at 18, in the second
    "growing": (
        "progan-small",
        "images",
        {
            **CHANNELS,
            "generator.latent_dim": 8,
            "growth.start": 4,
            "growth.stable_kimg": 0.004,
            "growth.fade_kimg": 0.006,
            "growth.max_batch": 4,
        },
    ),
    # half of the images guided by reference pictures, and a weight that falls while states are saved
    "starganv2": (
        "starganv2-small",
        "classes",
        {
            **{
                f"{role}.{key}": value
                for role in ("generator", "style_encoder", "discriminator")
                for key, value in (("width", 4), ("max_width", 8))
            },
            "generator.downsamplings": 1,
            "mapping.width": 8,
            "mapping.style_dim": 4,
            "loss.diversity_kimg": 0.016,
            "loss.penalties.r1.every": 4,
        },
    ),
    # noise, mixed styles, a running mean of path lengths, ADA without labels
    "styles": (
        "stylegan2-small",
        "images",
        {
            **CHANNELS,
            "generator.latent_dim": 8,
            "generator.w_dim": 8,
            "generator.mapping_layers": 1,
            "loss.penalties.path_length.every": 3,
            "augment.discriminator": "ada",
            "augment.parts": "blit,colour",
            "augment.p": 0.3,
            "augment.speed_kimg": 0.05,
        },
    ),
    # the control variable k, which begins at 0 and is moved by every step
    "began": (
        "dcgan-small",
        "images",
        {
            **NOISE,
            **CRITIC,
            "discriminator": "autoencoder",
            "discriminator.code_dim": 4,
            "loss.adversarial": "began",
            "loss.adversarial.rate": 0.2,
            "loss.penalties": "none",
        },
    ),
}


def digests(run: Path) -> dict[str, str]:
    """sha256 of a run's model and of every file of its last state."""
    last = max((run / "state").glob("step-*"))
    files = [run / "model.safetensors", *sorted(last.iterdir())]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def make_pictures(folder: Path, count: int, seed: int, size: tuple[int, int] = (24, 20)) -> None:
    """Smooth random colour pictures of (width, height) as PNG."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:02d}.png")


def make_data(root: Path) -> dict[str, dict[str, Any]]:
    """Data of every kind under `root`: option of the family -> keyword arguments of img2img.train."""
    make_pictures(root / "images", 7, 0)
    make_pictures(root / "classes" / "cat", 5, 1)
    make_pictures(root / "classes" / "dog", 4, 2)
    make_pictures(root / "pairs", 5, 3, (48, 20))
    make_pictures(root / "a", 5, 4)
    make_pictures(root / "b", 6, 5)
    return {
        "images": {"images": str(root / "images")},
        "classes": {"classes": str(root / "classes")},
        "pairs": {"pairs": str(root / "pairs")},
        "unpaired": {"a": str(root / "a"), "b": str(root / "b")},
    }


def arguments(family: str, data: dict[str, dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """Keyword arguments of img2img.train for one family."""
    recipe, option, own = FAMILIES[family]
    return {"recipe": recipe, **data[option], "set": {**COMMON, **own, **settings}, "device": "cpu"}
