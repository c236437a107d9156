"""Writes `networks.json`: every classification network of torchvision, and the smallest of each module of timm.

    python benchmarks/coupling/choose.py

Some modules of timm hold several architectures; those are named here. Images are as small as a network takes.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import timm
import torch
import torchvision
from networks import LIST, Named, build

FURTHER = (
    "convnextv2_atto", "coatnet_pico_rw_224", "coatnext_nano_rw_224", "maxxvit_rmlp_nano_rw_256", "gmixer_12_224",
    "resmlp_12_224", "mixer_s32_224", "convformer_s18", "caformer_s18", "repvgg_a0", "gernet_s", "mobileone_s0",
    "mixnet_s", "tinynet_e", "fbnetc_100", "efficientnet_lite0", "edgenext_xx_small", "mobilevitv2_050",
    "lcnet_035", "resnetv2_50x1_bit", "eca_nfnet_l0", "dm_nfnet_f0", "halonet_h1", "lambda_resnet26t", "botnet26t_256",
    "ese_vovnet19b_slim", "hgnetv2_b0", "twins_pcpvt_small", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224",
    "vit_srelpos_small_patch16_224",
)  # fmt: skip
LARGE = ("large", "huge", "giant", "gigantic", "enormous", "so400")
MOST = 120_000_000
"""Modules of timm whose smallest network has more parameters than this are not on the list."""


def parameters(name: str) -> int:
    """How many a network of timm has, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def smallest() -> Iterator[str]:
    """The smallest network of each module of timm; those that timm's own tests are made of do not count."""
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
        sizes = {}
        for name in names:
            if len(names) < 4 or not any(word in name for word in LARGE):
                try:
                    sizes[name] = parameters(name)
                except (RuntimeError, NotImplementedError, ValueError):  # it looks at numbers while it is built
                    continue
        name = min(sizes, key=sizes.__getitem__) if sizes else names[0]
        if sizes.get(name, 0) <= MOST:
            yield name


def sized(name: str, sizes: tuple[int, ...], keywords: tuple[str, ...], **arguments: Any) -> Named | None:
    """The network at the smallest of these image sizes that it takes, if it takes one."""
    for image in sizes:
        for keyword in (*keywords, None):
            given = arguments | ({} if keyword is None else {keyword: image})
            named = Named(name, image, given)
            try:
                with torch.device("meta"), torch.no_grad():  # shapes alone
                    found = build(named)(torch.empty(2, 3, image, image))
            except Exception:  # noqa: BLE001  (it does not take this size)
                continue
            if isinstance(found, torch.Tensor) and found.shape == (2, 1000):
                return named
    return None


def of_torchvision() -> Iterator[Named]:
    for name in torchvision.models.list_models(module=torchvision.models):
        keywords = ("image_size",) if name.startswith("vit_") else ()
        arguments: dict[str, Any] = {}
        if name in {"googlenet", "inception_v3"}:  # heads that only training uses
            arguments = {"aux_logits": False, "init_weights": False}
        if name.startswith("vgg"):
            arguments = {"init_weights": False}
        sizes = (56,) if name == "vit_h_14" else (224,) if name == "maxvit_t" else (64, 96, 128, 224)
        named = sized(f"torchvision:{name}", sizes, keywords, **arguments)
        if named is None:
            print("not on the list:", name)
        else:
            yield named


def of_timm() -> Iterator[Named]:
    for name in dict.fromkeys((*smallest(), *FURTHER)):
        if not timm.is_model(name):
            print("not in this timm:", name)
            continue
        config = timm.get_pretrained_cfg(name)
        own = config.input_size[-1] if config is not None else 224
        named = sized(f"timm:{name}", (64, 96, 128, 160, own), ("img_size",))
        if named is None:
            print("not on the list:", name)
        else:
            yield named


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for chosen in (of_timm(), of_torchvision()):
        for named in chosen:
            rows.append(named._asdict())
            print(named.name, named.image, named.arguments, flush=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    LIST.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
