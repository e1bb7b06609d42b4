"""PRP against tensors of its official code: clips at their rates, motion attention, network, losses, gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.cnn.c3d import C3D
from modules.core.loading import load_strictly
from modules.core.preprocessing import TO_ONE
from modules.methods.prp import PRP, AttentionSettings, Playback, attended_error, play
from modules.weights.names.cnn.prp import from_official, to_official
from tests.parity.cases import assert_close, load_case, part


def window(clip: Tensor, before: int, after: int) -> Tensor:
    """A longer video that contains an official clip [3, L, H, W]: uint8 [1, before + L + after, H, W, 3]."""
    video = clip.permute(1, 2, 3, 0)
    noise = torch.randint(0, 256, (before + after, *video.shape[1:]), dtype=torch.uint8)
    return torch.cat([noise[:before], video, noise[before:]])[None]


def test_clips_and_motion_attention() -> None:
    tensors, info = load_case("prp", "sampling_and_mask")
    settings = info["settings"]
    rates = sorted(int(key.split(".")[1].removeprefix("rate")) for key in tensors if key.endswith(".clip"))
    longest = max(tensors[f"input.rate{rate}.clip"].shape[1] for rate in rates)
    starts = [longest - tensors[f"input.rate{rate}.clip"].shape[1] for rate in rates]
    # All rates in one batch of windows, each clip at the end of its window.
    video = torch.cat([window(tensors[f"input.rate{rate}.clip"], start, 0) for rate, start in zip(rates, starts, strict=True)])
    frames = longest // max(rates)
    attention = AttentionSettings(settings["low"], settings["high"])
    played = play(video, torch.tensor(rates), torch.tensor(starts), frames, max(rates), attention)
    for row, rate in enumerate(rates):
        expected = part(tensors, f"output.rate{rate}.")
        clip = tensors[f"input.rate{rate}.clip"]
        assert int(expected["label"]) == row
        assert torch.equal(played.clip[row].permute(3, 0, 1, 2), clip[:, expected["sample_frames"]]), rate
        assert torch.equal(played.real[row].long(), expected["recon_flags"]), rate
        place = expected["recon_frame_position"]
        between = (clip[:, place.floor().long()].float() + clip[:, place.ceil().long()].float()) / 510
        assert_close(played.slow[row], between, f"slow clip at rate {rate}")
        assert_close(played.slow[row].mean((0, 2, 3)), expected["recon_clip_mean"], f"means at rate {rate}")
        error = (played.attention[row, ..., ::4, ::4] - expected["motion_mask_every4"]).abs().max()
        assert error <= info["tolerance"]["mask_atol"], rate


def test_network() -> None:
    tensors, info = load_case("prp", "net_c3d")
    state, tolerance = part(tensors, "state."), info["tolerance"]
    backbone = C3D(info["settings"]["base_width"], channels_last=False, normalisation=TO_ONE)
    method = PRP(backbone, tensors["input.clips"].shape[2]).eval()
    load_strictly(method, from_official(state), "the case")
    again = to_official(method.state_dict())
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.items())

    maps = backbone.forward_features(method.normalise(tensors["input.clips"].permute(0, 2, 3, 4, 1)))
    scores, drawn = method.rate_head(maps), method.decoder(maps)
    assert (scores - tensors["output.rate_logits"]).abs().max() <= tolerance["logits_atol"]
    for name, value in (("every4", drawn[..., ::4, ::4]), ("mean_thw", drawn.mean((3, 4)))):
        assert (value - tensors[f"output.reconstruction_{name}"]).abs().max() <= tolerance["reconstruction_atol"], name

    target, real = tensors["input.target"].float() / 255, tensors["input.recon_flags"] == 1
    played = Playback(tensors["input.clips"], target, real, tensors["input.mask"])
    reconstruction, rate = attended_error(drawn, played), F.cross_entropy(scores, tensors["input.rate_label"])
    loss = reconstruction + method.rate_weight * rate
    for name, value in (("loss_recon", reconstruction), ("loss_class", rate), ("loss", loss)):
        assert_close(value.detach(), tensors[f"output.{name}"], name)
    loss.backward()
    gradients = to_official({name: value.grad for name, value in method.named_parameters() if value.grad is not None})
    for name, value in part(tensors, "output.grad.").items():
        assert_close(gradients[name], value, name, tolerance["grad_rel_to_max"])
