"""A call of each raw op, by the names of its arguments."""

import torch

import rnnfused  # noqa: F401 - registers the ops

OPS = torch.ops.rnnfused
T, B, F, H, V, L = 5, 3, 4, 6, 7, 2


def tensors(**sizes):
    return {name: torch.randn(size) for name, size in sizes.items()}


def ids(*size):
    return torch.randint(0, V, size)


WEIGHTS = {"weight_ih": (H, F), "weight_hh": (H, H)}
BIASES = {"bias_ih": (H,), "bias_hh": (H,)}
STEPS = {"time_dim": 0, "nonlinearity": 0}
LAYER = {**STEPS, "reverse": False, "state_grad_clip": None}
NEEDS = {f"needs_{name}": True for name in ("input", "weight_ih", "weight_hh", "bias", "h_0")}
NO_EXTENTS = {"batch_sizes": None, "lengths": None}
BOTH = {"weight_ih_reverse": (H, F), "weight_hh_reverse": (H, H)}
BOTH_BIASES = {"bias_ih_reverse": (H,), "bias_hh_reverse": (H,)}


def of_layer(**sizes):
    return tensors(**WEIGHTS, **BIASES, **sizes) | NO_EXTENTS | LAYER


def of_backward(sequence, state, **more):
    names = {"grad_output": sequence, "output": sequence, "grad_h_n": state, "h_0": state}
    return tensors(**names, **more) | NO_EXTENTS


def generator():
    names = {"table": (V, H), "weights_hh": (L, H, H), "weights_ih": (L - 1, H, H)}
    return tensors(**names, biases=(L - 1, H), head_weight=(V, H), head_bias=(V,))


def generation():
    choice = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}
    sizes = {"vocab_size": V, "nonlinearity": 0, "num_symbols": 2, "first_step": 0}
    return {
        "packed": OPS.pack_generator(**generator()),
        "states": torch.randn(L, B, H),
        "ids": ids(B),
        "streams": ids(B),
        **sizes,
        **choice,
    }


CALLS = {
    "layer": lambda: of_layer(input=(T, B, F), h_0=(1, B, H)),
    "layer of a step": lambda: of_layer(input=(B, F), h_0=(B, H)) | {"time_dim": -1},
    "layer of ids": lambda: (
        of_layer(h_0=(1, B, H)) | {"input": ids(T, B), "weight_ih": torch.randn(H, V)}
    ),
    "layer with lengths": lambda: (
        of_layer(input=(T, B, F)) | {"h_0": None, "lengths": torch.tensor([5, 0, 2])}
    ),
    "layer of packed rows": lambda: (
        of_layer(input=(4, F)) | {"h_0": None, "batch_sizes": torch.tensor([3, 1])}
    ),
    "layer_backward": lambda: (
        of_backward((T, B, H), (1, B, H), input=(T, B, F), **WEIGHTS) | LAYER | NEEDS
    ),
    "recurrence_backward": lambda: (
        tensors(grad_output=(T, B, H), output=(T, B, H), grad_h_n=(1, B, H), weight_hh=(H, H))
        | NO_EXTENTS
        | {"nonlinearity": 0, "reverse": False, "state_grad_clip": None, "needs_h_0": True}
    ),
    "both_directions": lambda: (
        tensors(**WEIGHTS, **BIASES, **BOTH, **BOTH_BIASES, input=(T, B, F), h_0=(2, B, H))
        | NO_EXTENTS
        | STEPS
        | {"state_grad_clip": None}
    ),
    "both_directions_backward": lambda: (
        of_backward((T, B, 2 * H), (2, B, H), input=(T, B, F), **WEIGHTS, **BOTH)
        | STEPS
        | {"state_grad_clip": None}
        | NEEDS
    ),
    "project": lambda: tensors(input=(B, F), weight=(H, F), bias=(H,)),
    "sum_of_products": lambda: tensors(left=(T, B, F), right=(T, B, H)),
    "linear_cross_entropy": lambda: (
        tensors(hidden=(B, H), weight=(V, H), bias=(V,), row_scales=(B,))
        | {"target": ids(B), "reduction": 0, "ignore_index": -100, "label_smoothing": 0.0}
        | {f"needs_{name}": True for name in ("hidden", "weight", "bias")}
    ),
    "copied": lambda: tensors(x=(B, F)),
    "pack_generator": generator,
    "generate": generation,
    "pack_layer": lambda: tensors(**WEIGHTS, **BIASES),
    "run_prepared": lambda: {
        "packed": OPS.pack_layer(**tensors(**WEIGHTS, **BIASES)),
        "input": torch.randn(T, B, F),
        "states": torch.randn(1, B, H),
        "input_size": F,
        **STEPS,
    },
}
# Each tensor of each call.
POINTS = [
    (call, name)
    for call, make in CALLS.items()
    for name, value in make().items()
    if torch.is_tensor(value)
]
