"""VideoMAE in the format of the library `transformers`: names, config.json, preprocessor_config.json.

An encoder becomes a `VideoMAEModel`, encoder and decoder a `VideoMAEForPreTraining`, and a fine-tuned network a
`VideoMAEForVideoClassification`. The networks are the same under other names, with these differences:

* Query, key and value are separate in `transformers`. Neither the library nor the official code has a key bias; ours changes
  no output and is dropped. The names q_bias and v_bias are those of the published files, which all versions of the library
  can read.
* `use_mean_pooling` means both that tokens are averaged before the head, and that the encoder has no final LayerNorm.
  Pretrained encoders have a final LayerNorm, fine-tuned ones do not.
* The library's decoder can only predict pixels. Its last LayerNorms (`decoder.norm`, `fc_norm`) always have eps 1e-5,
  independent of the config; ours and the official ones have 1e-6. The relative difference of outputs is at most 5e-6 over the
  variance of the normalised values. Published configs have eps 1e-12 for the other LayerNorms; ours keep the official 1e-6.
* Clips are [B, T, 3, H, W] in `transformers` and [B, 3, T, H, W] here.
"""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from modules.core.preprocessing import Normalisation
from modules.weights.sizes import Architecture

CLASSES = {
    "encoder": "VideoMAEModel",
    "pretraining": "VideoMAEForPreTraining",
    "classifier": "VideoMAEForVideoClassification",
}


def model_config(
    architecture: Architecture, final_norm: bool, norm_pix_loss: bool | None = None, class_names: list[str] | None = None
) -> dict[str, Any]:
    """Content of config.json.

    Args:
        architecture: sizes of the network.
        final_norm: whether the weights contain the encoder's final LayerNorm.
        norm_pix_loss: whether the pixels that a decoder predicts were normalised per cube. None if unknown: it is then omitted,
            which `transformers` reads as true, and a message is printed.
        class_names: class names by label; None uses LABEL_0, LABEL_1 and so on, as in `transformers`.
    """
    sizes = architecture
    config: dict[str, Any] = {
        "architectures": [CLASSES[sizes.kind]],
        "model_type": "videomae",
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "num_channels": 3,
        "num_frames": sizes.num_frames,
        "tubelet_size": sizes.tubelet_size,
        "hidden_size": sizes.embed_dim,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": int(sizes.embed_dim * sizes.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": sizes.kind == "classifier" or not final_norm,
    }
    if sizes.decoder_dim is not None:
        config |= {
            "decoder_hidden_size": sizes.decoder_dim,
            "decoder_num_hidden_layers": sizes.decoder_depth,
            "decoder_num_attention_heads": sizes.decoder_heads,
            "decoder_intermediate_size": int(sizes.decoder_dim * sizes.mlp_ratio),
        }
        if norm_pix_loss is not None:
            config["norm_pix_loss"] = norm_pix_loss
        else:
            rank_zero_info(
                "It is unknown whether the predicted pixels were normalised: transformers assumes that they were; if not, set "
                "norm_pix_loss to false in config.json."
            )
    if sizes.num_classes is not None:
        given = class_names or [f"LABEL_{number}" for number in range(sizes.num_classes)]
        names = {str(number): name for number, name in enumerate(given)}
        config |= {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    return config


def preprocessor_config(image_size: int, normalisation: Normalisation) -> dict[str, Any]:
    """Content of preprocessor_config.json: shorter side resized to `image_size`, centre crop, mean and standard deviation."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalisation.mean),
        "image_std": list(normalisation.std),
    }
