"""How far back a loss is felt: the norm of its gradient by distance, vanishing or exploding."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rnnfused.arguments import check_int

from .checkpoint.atomic import replacing
from .model import CharLM, check_model
from .plot import write_curves
from .vocab import check_ids, check_in_vocabulary

_JSON, _PLOT = "gradients.json", "gradients.png"


def gradient_profile(
    model: CharLM, ids: Tensor, *, distance: int = 100, num_windows: int = 32
) -> list[list[float]]:
    """Norm of dL/dh_t by distance from the loss, per layer.

    L is the cross-entropy of a window's last symbol alone, h_t the state of a layer ``d`` steps
    before the one that predicts it. The 2-norms are averaged over windows spread evenly over
    ``ids``, each from a state of zeros, in float64 and without dropout. Where they fall
    geometrically, the gradient vanishes; where they grow, it explodes: Bengio, Simard and Frasconi,
    *Learning long-term dependencies with gradient descent is difficult*, 1994; Pascanu, Mikolov
    and Bengio, 2013.

    Args:
        model: on any device; stays as it is.
        ids: 1-D, of any integer dtype, at least 2, each in ``0 .. vocab_size - 1``.
        distance: the largest distance in steps, at least 0; less if ``ids`` are fewer.
        num_windows: number of windows, at least 1; less if ``ids`` are fewer.

    Returns:
        For each layer, from the lowest, the norms at distances 0, 1, ..

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``ids`` are too few or not 1-D, or a number is out of range.
        IndexError: an id of a window is outside the vocabulary.
    """
    check_model(model)
    check_ids(ids)
    if len(ids) < 2:
        raise ValueError(f"ids must be at least 2, got {len(ids)}")
    distance = check_int("distance", distance, 0)
    num_windows = check_int("num_windows", num_windows, 1)
    length = min(distance + 1, len(ids) - 1)
    number = min(num_windows, (len(ids) - 1) // length)
    starts = [(len(ids) - 1 - length) * i // max(1, number - 1) for i in range(number)]
    windows = torch.stack([ids[start : start + length + 1] for start in starts])
    check_in_vocabulary(windows, model.config.vocab_size)
    windows = windows.long().to(model.device)
    model = copy.deepcopy(model).eval().double().requires_grad_(False)
    states = _states(model, windows[:, :-1])
    logits = F.linear(states[-1][-1], model.output_weight, model.head.bias)
    # A sum: each window's loss has a gradient in its own rows alone.
    loss = F.cross_entropy(logits, windows[:, -1], reduction="sum")
    every = [state for layer in states for state in layer]
    gradients = torch.autograd.grad(loss, every, allow_unused=True)
    norms = [0.0 if g is None else g.norm(dim=1).mean().item() for g in gradients]
    return [norms[i : i + length][::-1] for i in range(0, len(norms), length)]


def _states(model: CharLM, ids: Tensor) -> list[list[Tensor]]:
    """The states ``(B, H)`` of each layer and step, step by step, so that each has a gradient."""
    rnn: Any = model.rnn
    function = torch.tanh if rnn.nonlinearity == "tanh" else torch.relu
    if model.embedding is None:
        inputs = list(F.embedding(ids, rnn.weight_ih_l0.t()).unbind(1))
    else:
        inputs = list(F.embedding(ids, model.embedding.weight).unbind(1))
    states = []
    for layer in range(rnn.num_layers):
        parts = (getattr(rnn, f"{part}_l{layer}") for part in ("weight_ih", "weight_hh"))
        weight_ih, weight_hh = parts
        bias = getattr(rnn, f"bias_ih_l{layer}") + getattr(rnn, f"bias_hh_l{layer}")
        looked_up = layer == 0 and model.embedding is None
        h = torch.zeros(len(ids), rnn.hidden_size, dtype=torch.float64, device=ids.device)
        outputs = []
        for x in inputs:
            projected = x if looked_up else F.linear(x, weight_ih)
            h = function(projected + bias + F.linear(h, weight_hh))
            if not h.requires_grad:
                h.requires_grad_()
            outputs.append(h)
        states.append(outputs)
        inputs = outputs
    return states


def save_profile(profile: list[list[float]], folder: Path, *, check: Callable[[], None]) -> None:
    """Write ``gradients.json`` and ``gradients.png`` into ``folder``.

    The first holds ``{"distance": [0, 1, ..], "norms": [[..] per layer]}``.

    Args:
        profile: as of ``gradient_profile``.
        check: called before a file is written; raises to leave it as it is.

    Raises:
        OSError: ``folder`` cannot be written to.
    """
    values = {"distance": list(range(len(profile[0]))), "norms": profile}
    with replacing(folder / _JSON, check=check) as [new]:
        new.write_text(json.dumps(values) + "\n", encoding="utf-8")
    curves = {
        # The axis is logarithmic: a norm of zero has no place there.
        f"layer {layer}": [(float(d), norm) for d, norm in enumerate(norms) if norm > 0]
        for layer, norms in enumerate(profile, 1)
    }
    write_curves(
        folder / _PLOT,
        {label: points for label, points in curves.items() if points},
        xlabel="distance from the loss, steps",
        ylabel="norm of dL/dh",
        check=check,
    )
