"""Tiny random detectors of each family, written as folders of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

QUERIES = 12
_ENCODER = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
_SMALL = {
    **_ENCODER,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "d_model": 32,
    "num_queries": QUERIES,
    "num_labels": 5,
}


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )


def _detr() -> Any:
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(backbone_config=_resnet(), use_timm_backbone=False, backbone=None, **_SMALL)
    return DetrForObjectDetection(config)


def _conditional() -> Any:
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection

    config = ConditionalDetrConfig(
        backbone_config=_resnet(), use_timm_backbone=False, backbone=None, **_SMALL
    )
    return ConditionalDetrForObjectDetection(config)


def _yolos() -> Any:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[96, 128],
        num_detection_tokens=QUERIES,
        num_labels=5,
    )
    return YolosForObjectDetection(config)


_HYBRID = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 16, 32],
    "encoder_ffn_dim": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_in_channels": [32, 32, 32],
    "d_model": 32,
    "num_queries": QUERIES,
    "num_denoising": 0,
    "num_labels": 5,
}


def _rt_detr() -> Any:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return RTDetrForObjectDetection(RTDetrConfig(backbone_config=backbone, **_HYBRID))


def _d_fine() -> Any:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 16, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    return DFineForObjectDetection(DFineConfig(backbone_config=backbone, **_HYBRID))


MAKERS: dict[str, Callable[[], Any]] = {
    "detr": _detr,
    "conditional_detr": _conditional,
    "yolos": _yolos,
    "rt_detr": _rt_detr,
    "d_fine": _d_fine,
}


def write_detector(family: str, folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """A folder of config.json and model.safetensors."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = MAKERS[family]()
        if change is not None:
            with torch.no_grad():
                change(network)
        network.save_pretrained(folder)
    return folder


def only_box(network: Any, centre: tuple[float, float, float, float], label: int = 2) -> None:
    """Have a detector of the YOLOS or DETR family always see one label at one place."""
    import torch

    head = network.bbox_predictor.layers[-1]
    head.weight.zero_()
    head.bias.copy_(torch.logit(torch.tensor(centre)))
    classes = network.class_labels_classifier
    classes = getattr(classes, "layers", [classes])[-1]
    classes.weight.zero_()
    classes.bias.fill_(-10.0)
    classes.bias[label] = 10.0
