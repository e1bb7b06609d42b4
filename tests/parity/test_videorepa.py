"""Token relations and the alignment of a diffusion model against tensors of VideoREPA's official code."""

import pytest
import torch
from torch import Tensor

from modules.layers.relations import Alignment, teacher_clip
from modules.losses.relation import cosine_loss, token_relation_loss
from tests.parity.cases import assert_close, load_case, part

BOUND, GRADIENT_BOUND = 5e-6, 2e-5
PAIRS = ("all", "spatial", "temporal")


@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("teacher", ["same_width", "unlike_width", "self"])
def test_losses_of_token_grids(teacher: str, block: int | None) -> None:
    tensors, info = load_case("videorepa", "trd_loss")
    margins = info["settings"]["margins"]
    names = {"same_width": "input.teacher", "unlike_width": "input.teacher_wide", "self": "input.student"}
    compared = 0
    for key, expected in part(tensors, f"output.{teacher}.").items():
        pairs, *number = key.removesuffix(".loss").split(".")
        margin = margins[int(number[0].removeprefix("margin"))] if number else info["settings"].get("margin", 0.0)
        student = tensors["input.student"].clone().requires_grad_()
        loss = token_relation_loss(student, tensors[names[teacher]], margin, pairs, block)  # type: ignore[arg-type]
        loss.backward()
        assert student.grad is not None
        # The bound of the case is 1e-6, relative to 1 because cosines are.
        assert (loss.detach() - expected.reshape(())).abs() <= 1e-6 + 1e-5 * expected.abs().max(), key
        gradient = tensors[f"output.grad.{teacher}.{key.removesuffix('.loss')}.student"]
        assert torch.allclose(student.grad, gradient, rtol=1e-5, atol=1e-6), key
        if gradient.any():
            assert_close(student.grad, gradient, key, GRADIENT_BOUND)
        compared += 1
    assert compared == (1 if teacher == "self" else 3 * len(margins))


def test_cosines_of_the_student() -> None:
    tensors, _ = load_case("videorepa", "trd_loss")
    rows = torch.nn.functional.normalize(tensors["input.student"].flatten(1, 2), dim=-1)
    assert_close(rows @ rows.mT, tensors["output.gram_student"], "cosines", BOUND)


def test_frames_of_the_teacher() -> None:
    tensors, _ = load_case("videorepa", "teacher_preprocess")
    found, expected = teacher_clip(tensors["input.raw_frames"]), tensors["output.teacher_input"]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5


def load_alignment(case: str) -> tuple[dict[str, Tensor], Alignment, tuple[int, int, int]]:
    """The case, the network with its weights, and the grid of the latent frames."""
    tensors, _ = load_case("videorepa", case)
    names = {"projectors.0.": "projector.", "downsampler_cogvideo_output.": "downsampler."}
    state = {ours(key, names): value for key, value in part(tensors, "state.").items()}
    network = Alignment(tensors["input.hidden_states"].shape[2], *state["projector.4.weight"].shape[::-1])
    network.load_state_dict(state)
    frames, rows, columns = tensors["output.after_conv"].shape[1:4]
    return tensors, network, (frames // 2 + 1, 3 * rows, 3 * columns)


def ours(name: str, names: dict[str, str]) -> str:
    """The name of a parameter of the official code in `Alignment`."""
    for official, own in names.items():
        name = name.replace(official, own)
    return name


CASES = ("alignment_path", "alignment_path_small")


@pytest.mark.parametrize("case", CASES)
def test_tokens_of_a_hidden_state(case: str) -> None:
    tensors, network, grid = load_alignment(case)
    hidden = tensors["input.hidden_states"]
    with torch.no_grad():
        projected = network.projector(hidden)
        upsampled, tokens = network.upsample(projected, grid), network(hidden, grid)
    if "output.after_projector" in tensors:
        assert_close(projected, tensors["output.after_projector"], "projector", BOUND)
        assert_close(upsampled, tensors["output.after_upsample"], "interpolation", BOUND)
    else:
        corner = tensors["output.after_upsample_corner"]
        assert_close(upsampled[..., : corner.shape[3], : corner.shape[4]], corner, "interpolation", BOUND)
    assert_close(tokens, tensors["output.after_conv"].flatten(2, 3), "convolution", BOUND)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [*PAIRS, "repa_cosine"])
def test_losses_of_a_hidden_state(case: str, kind: str) -> None:
    tensors, network, grid = load_alignment(case)
    _, info = load_case("videorepa", case)
    hidden = tensors["input.hidden_states"].clone().requires_grad_()
    tokens = network(hidden, grid)
    teacher = tensors["input.teacher_tokens"].unflatten(1, tokens.shape[1:3])
    if kind == "repa_cosine":
        loss = cosine_loss(tokens, teacher)
    else:
        loss = token_relation_loss(tokens, teacher, info["settings"]["margin"], kind)  # type: ignore[arg-type]
    loss.backward()
    assert_close(loss.detach(), tensors[f"output.{kind}.loss"].reshape(()), "loss", BOUND)
    gradients = {name: value.grad for name, value in network.named_parameters()} | {"hidden_states": hidden.grad}
    names = {"projectors.0.": "projector.", "downsampler_cogvideo_output.": "downsampler."}
    expected = {ours(key, names): value for key, value in part(tensors, f"output.grad.{kind}.").items()}
    assert set(gradients) - {"hidden_states"} <= expected.keys()
    # The bound of the large case is wider: its loss is a mean over millions of pairs, of which some are at the margin.
    relative = 1e-4
    for name, value in expected.items():
        found = gradients[name]
        assert found is not None
        assert torch.allclose(found, value, rtol=relative, atol=1e-5 if case == "alignment_path" else 1e-6), name
        assert_close(found, value, name, relative)
