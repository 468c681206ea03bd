"""Draws calls of the public functions and of the raw ops, with their oracles."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

import rnnfused
from rnnfused import functional, reference

from .values import DTYPES, Memory, spoiled

OPS = torch.ops.rnnfused


class Call(NamedTuple):
    """A function, its arguments by name, and its oracle; None: any result will do that reads only its arguments."""

    name: str
    function: object
    arguments: dict
    oracle: object = None
    is_public: bool = True  # errors name an argument


def _recurrence(memory, layer):
    """Arguments of functional.rnn, or of rnn_layer."""
    random = memory.random
    steps, rows, hidden = (random.randrange(1, 6) for _ in range(3))
    features = random.randrange(1, 5) if layer else hidden
    dtype = random.choice(DTYPES)
    arguments = {}
    kind = random.choice(["dense", "dense", "packed", "lengths"])
    batch_first = kind != "packed" and random.random() < 0.3
    sizes = (rows, steps) if batch_first else (steps, rows)
    if kind == "packed":
        batch_sizes = sorted((random.randrange(1, rows + 1) for _ in range(steps)), reverse=True)
        sizes = (sum(batch_sizes),)
        rows = batch_sizes[0]
        arguments["batch_sizes"] = torch.tensor(batch_sizes)
    elif kind == "lengths":
        arguments["lengths"] = memory.tensor((rows,), torch.int64, integers=steps + 1)
    first = "input" if layer else "projections"
    arguments[first] = memory.tensor((*sizes, features), dtype)
    if layer:
        arguments["weight_ih"] = memory.tensor((hidden, features), dtype)
        if random.random() < 0.6:
            arguments["bias"] = memory.tensor((hidden,), dtype)
    arguments["weight_hh"] = memory.tensor((hidden, hidden), dtype)
    if random.random() < 0.5:
        arguments["h_0"] = memory.tensor((rows, hidden), dtype)
    arguments |= {
        "batch_first": batch_first,
        "reverse": random.random() < 0.3,
        "nonlinearity": random.choice(["tanh", "relu"]),
    }
    return arguments


def _reference_rnn(**arguments):
    wide = {k: v.double() if _is_float(v) else v for k, v in arguments.items()}
    return reference.rnn(**wide)


def _reference_layer(input, weight_ih, weight_hh, bias=None, **options):
    projections = F.linear(
        input.double(), weight_ih.double(), None if bias is None else bias.double()
    )
    return _reference_rnn(projections=projections, weight_hh=weight_hh, **options)


def _is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def draw_rnn(memory):
    return Call("functional.rnn", functional.rnn, _recurrence(memory, False), _reference_rnn)


def draw_layer(memory):
    return Call(
        "functional.rnn_layer", functional.rnn_layer, _recurrence(memory, True), _reference_layer
    )


def draw_module(memory):
    random = memory.random
    features, hidden, batch_first = (
        random.randrange(1, 5),
        random.randrange(1, 6),
        random.random() < 0.4,
    )
    options = {
        "num_layers": random.randrange(1, 3),
        "bidirectional": random.random() < 0.3,
        "batch_first": batch_first,
        "nonlinearity": random.choice(["tanh", "relu"]),
    }
    theirs = torch.nn.RNN(features, hidden, dtype=torch.float64, **options)
    ours = rnnfused.RNN(features, hidden, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    steps, rows = random.randrange(1, 5), random.randrange(1, 5)
    arguments = {
        "input": memory.tensor(
            (rows, steps, features) if batch_first else (steps, rows, features), torch.float64
        )
    }
    if random.random() < 0.5:
        states = options["num_layers"] * (1 + options["bidirectional"])
        arguments["hx"] = memory.tensor((states, rows, hidden), torch.float64)
    return Call("RNN.forward", ours, arguments, theirs)


def draw_cross_entropy(memory):
    random = memory.random
    rows, hidden, classes = (random.randrange(1, 7) for _ in range(3))
    dtype = random.choice([torch.float32, torch.float64])
    arguments = {
        "hidden": memory.tensor((rows, hidden), dtype),
        "weight": memory.tensor((classes, hidden), dtype),
        "bias": memory.tensor((classes,), dtype) if random.random() < 0.6 else None,
        "target": memory.tensor((rows,), torch.int64, integers=classes),
        "reduction": random.choice(["mean", "sum", "none"]),
        "label_smoothing": random.choice([0.0, 0.1]),
        "ignore_index": random.choice([-100, 0]),
    }

    def oracle(hidden, weight, bias, target, **options):
        bias = None if bias is None else bias.double()
        return F.cross_entropy(
            F.linear(hidden.double(), weight.double(), bias), target.long(), **options
        )

    return Call("linear_cross_entropy", functional.linear_cross_entropy, arguments, oracle)


def _raw_extents(memory, arguments):
    names = {
        "batch_sizes": arguments.pop("batch_sizes", None),
        "lengths": arguments.pop("lengths", None),
    }
    if names["lengths"] is not None:
        names["lengths"] = names["lengths"].contiguous()
    return names


def draw_raw_layer(memory):
    random = memory.random
    arguments = _recurrence(memory, True)
    relu = arguments.pop("nonlinearity") == "relu"
    batch_first = arguments.pop("batch_first")
    raw = {
        "input": arguments["input"],
        "weight_ih": arguments["weight_ih"],
        "weight_hh": arguments["weight_hh"],
        "bias_ih": arguments.get("bias"),
        "bias_hh": None,
        "h_0": arguments["h_0"][None] if "h_0" in arguments else None,
        **_raw_extents(memory, arguments),
        "time_dim": int(batch_first),
        "nonlinearity": int(relu),
        "reverse": arguments["reverse"],
        "state_grad_clip": None,
    }
    if random.random() < 0.3:
        sizes = raw["input"].shape[:-1]
        raw["input"] = memory.tensor(sizes, torch.int64, integers=raw["weight_ih"].shape[1])
    return Call("ops.layer", OPS.layer.default, raw, None, False)


def draw_raw_backward(memory):
    random = memory.random
    raw = draw_raw_layer(memory).arguments
    hidden = raw["weight_hh"].shape[0]
    input = raw["input"]
    sizes = input.shape if input.dtype == torch.int64 else input.shape[:-1]
    dtype = raw["weight_hh"].dtype
    output = memory.tensor((*sizes, hidden), dtype)
    arguments = {
        "grad_output": memory.tensor((*sizes, hidden), dtype) if random.random() < 0.7 else None,
        "grad_h_n": None,
        "output": output,
        **{
            name: raw[name]
            for name in (
                "input",
                "weight_ih",
                "weight_hh",
                "h_0",
                "batch_sizes",
                "lengths",
                "time_dim",
            )
        },
        **{name: raw[name] for name in ("nonlinearity", "reverse", "state_grad_clip")},
        **{
            f"needs_{name}": random.random() < 0.7
            for name in ("input", "weight_ih", "weight_hh", "bias", "h_0")
        },
    }
    return Call("ops.layer_backward", OPS.layer_backward.default, arguments, None, False)


def _raw_of_both(memory, raw):
    """The arguments of both directions from those of ``layer``."""
    hidden, features = raw["weight_ih"].shape
    dtype = raw["weight_hh"].dtype

    def states():
        return memory.tensor((2, *raw["h_0"].shape[1:]), dtype)

    return {
        "input": raw["input"],
        "weight_ih": raw["weight_ih"],
        "weight_hh": raw["weight_hh"],
        "weight_ih_reverse": memory.tensor((hidden, features), dtype),
        "weight_hh_reverse": memory.tensor(tuple(raw["weight_hh"].shape), dtype),
        "h_0": None if raw["h_0"] is None else states(),
        "batch_sizes": raw["batch_sizes"],
        "lengths": raw["lengths"],
        **{name: raw[name] for name in ("time_dim", "nonlinearity", "state_grad_clip")},
    }


def draw_raw_both(memory):
    raw = draw_raw_layer(memory).arguments
    both = _raw_of_both(memory, raw)
    hidden = raw["weight_ih"].shape[0]
    dtype = raw["weight_hh"].dtype
    biases = {
        f"bias_{name}": memory.tensor((hidden,), dtype) if memory.random.random() < 0.5 else None
        for name in ("ih", "hh", "ih_reverse", "hh_reverse")
    }
    order = (
        *("input", "weight_ih", "weight_hh", "bias_ih", "bias_hh"),
        *("weight_ih_reverse", "weight_hh_reverse", "bias_ih_reverse", "bias_hh_reverse"),
        *("h_0", "batch_sizes", "lengths", "time_dim", "nonlinearity", "state_grad_clip"),
    )
    arguments = {name: (both | biases)[name] for name in order}
    return Call("ops.both_directions", OPS.both_directions.default, arguments, None, False)


def draw_raw_both_backward(memory):
    random = memory.random
    raw = draw_raw_backward(memory).arguments
    hidden = raw["weight_ih"].shape[0]
    sizes, dtype = raw["output"].shape[:-1], raw["output"].dtype
    both = _raw_of_both(memory, raw)
    arguments = {
        "grad_output": memory.tensor((*sizes, 2 * hidden), dtype)
        if random.random() < 0.7
        else None,
        "grad_h_n": None if both["h_0"] is None else memory.tensor(tuple(both["h_0"].shape), dtype),
        "output": memory.tensor((*sizes, 2 * hidden), dtype),
        **both,
        **{name: value for name, value in raw.items() if name.startswith("needs_")},
    }
    op = OPS.both_directions_backward.default
    return Call("ops.both_directions_backward", op, arguments, None, False)


def draw_raw_products(memory):
    random = memory.random
    rows, left, right = (random.randrange(1, 7) for _ in range(3))
    dtype = random.choice(DTYPES)
    if random.random() < 0.5:
        arguments = {
            "input": memory.tensor((rows, left), dtype),
            "weight": memory.tensor((right, left), dtype),
            "bias": memory.tensor((right,), dtype) if random.random() < 0.5 else None,
        }

        def project(input, weight, bias):
            return F.linear(
                input.double(), weight.double(), None if bias is None else bias.double()
            )

        return Call("ops.project", OPS.project.default, arguments, project, False)
    arguments = {
        "left": memory.tensor((rows, 2, left), dtype),
        "right": memory.tensor((rows, 2, right), dtype),
    }

    def sums(left, right):
        return torch.einsum("oil,oir->lr", left.double(), right.double())

    return Call("ops.sum_of_products", OPS.sum_of_products.default, arguments, sums, False)


def draw_raw_cross_entropy(memory):
    arguments = draw_cross_entropy(memory).arguments
    raw = {
        "hidden": arguments["hidden"],
        "weight": arguments["weight"],
        "bias": arguments["bias"],
        "target": arguments["target"],
        "row_scales": None,
        "reduction": memory.random.randrange(3),
        "ignore_index": -100,
        "label_smoothing": 0.0,
        **{f"needs_{name}": memory.random.random() < 0.7 for name in ("hidden", "weight", "bias")},
    }
    return Call("ops.linear_cross_entropy", OPS.linear_cross_entropy.default, raw, None, False)


def draw_raw_generate(memory):
    random = memory.random
    layers, rows, hidden, vocab = (random.randrange(1, 5) for _ in range(4))
    dtype = random.choice(DTYPES)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    packed = OPS.pack_generator(
        torch.randn(vocab, hidden, dtype=sums),
        torch.randn(layers, hidden, hidden).to(dtype),
        torch.randn(layers - 1, hidden, hidden).to(dtype),
        torch.randn(layers - 1, hidden, dtype=sums),
        torch.randn(vocab, hidden).to(dtype),
        None,
    )
    arguments = {
        "packed": packed,
        "states": memory.tensor((layers, rows, hidden), dtype).contiguous(),
        "ids": memory.tensor((rows,), torch.int64, integers=vocab).contiguous(),
        "streams": torch.arange(rows),
        "vocab_size": vocab,
        "nonlinearity": random.randrange(2),
        "num_symbols": random.randrange(4),
        "first_step": random.randrange(3),
        "temperature": random.choice([0.0, 1.0]),
        "top_k": random.randrange(3),
        "top_p": random.choice([1.0, 0.5]),
        "seed": random.randrange(2**40),
    }
    return Call("ops.generate", OPS.generate.default, arguments, None, False)


def draw_raw_prepared(memory):
    random = memory.random
    layers, rows, hidden, inputs = (random.randrange(1, 5) for _ in range(4))
    dtype = random.choice(DTYPES)
    packed = [
        OPS.pack_layer(
            torch.randn(hidden, hidden if layer else inputs).to(dtype),
            torch.randn(hidden, hidden).to(dtype),
            random.choice([None, torch.randn(hidden).to(dtype)]),
            None,
        )
        for layer in range(layers)
    ]
    time_dim = random.randrange(-1, 2)
    steps = {-1: (), 0: (random.randrange(1, 4),), 1: (random.randrange(1, 4),)}[time_dim]
    shape = (rows, *steps) if time_dim == 1 else (*steps, rows)
    if random.random() < 0.3:
        x = memory.tensor(shape, torch.int64, integers=inputs)
    else:
        x = memory.tensor((*shape, inputs), dtype)
    arguments = {
        "packed": torch.cat(packed),
        "input": x,
        "states": memory.tensor((layers, rows, hidden), dtype).contiguous(),
        "input_size": inputs,
        "time_dim": time_dim,
        "nonlinearity": random.randrange(2),
    }
    return Call("ops.run_prepared", OPS.run_prepared.default, arguments, None, False)


def draw_raw_pack_layer(memory):
    random = memory.random
    hidden, inputs = (random.randrange(5) for _ in range(2))
    dtype = random.choice(DTYPES)
    arguments = {
        "weight_ih": memory.tensor((hidden, inputs), dtype),
        "weight_hh": memory.tensor((hidden, hidden), dtype),
        "bias_ih": memory.tensor((hidden,), dtype),
        "bias_hh": None,
    }
    return Call("ops.pack_layer", OPS.pack_layer.default, arguments, None, False)


DRAWS = [
    draw_rnn,
    draw_rnn,
    draw_layer,
    draw_layer,
    draw_module,
    draw_cross_entropy,
    draw_raw_layer,
    draw_raw_layer,
    draw_raw_backward,
    draw_raw_backward,
    draw_raw_both,
    draw_raw_both_backward,
    draw_raw_products,
    draw_raw_cross_entropy,
    draw_raw_generate,
    draw_raw_pack_layer,
    draw_raw_prepared,
]


def draw(random):
    """A call whose arguments are right, or of which one or two are spoiled, and the memory of its tensors."""
    memory = Memory(random)
    call = random.choice(DRAWS)(memory)
    for _ in range(random.choice([0, 1, 1, 1, 2])):
        name = random.choice(list(call.arguments))
        others = list(call.arguments.values())
        call.arguments[name] = spoiled(memory, call.arguments[name], others)
    return call, memory
