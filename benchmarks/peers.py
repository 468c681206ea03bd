"""The peers of rnnfused. For a case, a peer makes one call per way, or None where it lacks that way.

The forward call returns the states, as an array of the peer's own kind. torch.nn.RNN always runs. The option --peers
adds nn.RNN under torch.compile; the textbook's loop, with and without torch.compile; ONNX Runtime's RNN; a jitted
jax.lax.scan; oneDNN's RNN primitive; LIBXSMM's RNN cell. The extra `peers` installs the packages of ONNX Runtime and
jax. The last two need Debian's libdnnl-dev and libxsmm-dev, and are driven by native_peers/.
"""

import torch

from rnnfused.bench.shape import ways
from rnnfused.bench.timing import Call

Ways = dict[str, Call | None]

# torch.compile unrolls the loop: beyond these it takes minutes, three times as many for nn.RNN.
MAX_COMPILED_STEPS = 200
MAX_COMPILED_NN_RNN_STEPS = 64


class Textbook(torch.nn.Module):
    """The loop as a textbook writes it, with nn.RNN's names of parameters."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            self.register_parameter(name, torch.nn.Parameter(value.detach().clone()))

    def forward(self, x):
        h, outputs = x.new_zeros(x.size(1), self.weight_hh_l0.size(0)), []
        for x_t in x:
            h = torch.tanh(
                x_t @ self.weight_ih_l0.t()
                + self.bias_ih_l0
                + h @ self.weight_hh_l0.t()
                + self.bias_hh_l0
            )
            outputs.append(h)
        return torch.stack(outputs), h


def nn_rnn_module(state):
    hidden_size, input_size = state["weight_ih_l0"].shape
    module = torch.nn.RNN(input_size, hidden_size)
    module.load_state_dict(state)
    return module


def nn_rnn(state, x, gradient) -> Ways:
    return ways(nn_rnn_module(state), x, gradient)


def textbook(state, x, gradient) -> Ways:
    return ways(Textbook(state), x, gradient)


def compiled_ways(module, x, gradient, max_steps) -> Ways:
    if len(x) > max_steps:
        return {"forward": None, "forward_backward": None}
    config = torch._dynamo.config
    # Each case compiles again. With the default limit, torch stops after a few and runs the rest uncompiled.
    config.recompile_limit = config.accumulated_recompile_limit = 1000
    config.allow_rnn = True  # without it, torch refuses to compile nn.RNN
    return ways(torch.compile(module, fullgraph=True, dynamic=False), x, gradient)


def compiled(state, x, gradient) -> Ways:
    return compiled_ways(Textbook(state), x, gradient, MAX_COMPILED_STEPS)


def compiled_nn_rnn(state, x, gradient) -> Ways:
    return compiled_ways(nn_rnn_module(state), x, gradient, MAX_COMPILED_NN_RNN_STEPS)


def onnx_session(state, x, carries_state=False):
    """A session of ONNX Runtime's RNN over X; with H too, the state before, it returns the state after."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    hidden_size, input_size = state["weight_ih_l0"].shape
    steps, batch, _ = x.shape
    bias = torch.cat([state["bias_ih_l0"], state["bias_hh_l0"]])
    weights = {"W": state["weight_ih_l0"], "R": state["weight_hh_l0"], "B": bias}
    sequence, one_step = [steps, 1, batch, hidden_size], [1, batch, hidden_size]

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    names = ["X", *weights, *(["", "H"] if carries_state else [])]
    results = ["", "Y"] if carries_state else ["Y"]
    graph = helper.make_graph(
        [helper.make_node("RNN", names, results, hidden_size=hidden_size)],
        "rnn",
        [value("X", list(x.shape)), *([value("H", one_step)] if carries_state else [])],
        [value("Y", one_step if carries_state else sequence)],
        [numpy_helper.from_array(w.detach().numpy()[None], name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnxruntime(state, x, gradient) -> Ways:
    session, inputs = onnx_session(state, x), {"X": x.numpy()}
    return {
        "forward": lambda: session.run(None, inputs)[0],
        "forward_backward": None,
    }


def jax(state, x, gradient) -> Ways:
    import jax
    import jax.numpy as jnp

    weights = [jnp.asarray(w.detach().numpy()) for w in state.values()]
    x, gradient = (jnp.asarray(value.numpy()) for value in (x, gradient))

    def states(weights, x):
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        projections = x @ weight_ih.T + (bias_ih + bias_hh)

        def step(h, p):
            h = jnp.tanh(p + h @ weight_hh.T)
            return h, h

        return jax.lax.scan(step, jnp.zeros_like(projections[0]), projections)[1]

    forward = jax.jit(states)
    backward = jax.jit(
        lambda weights, x, gradient: jax.vjp(lambda w: states(w, x), weights)[1](gradient)
    )
    return {
        "forward": lambda: forward(weights, x).block_until_ready(),
        "forward_backward": lambda: jax.block_until_ready(backward(weights, x, gradient)),
    }


def onednn(state, x, gradient) -> Ways:
    from native_peers import native

    return native.ways("onednn", state, x, gradient)


def libxsmm(state, x, gradient) -> Ways:
    from native_peers import native

    return native.ways("libxsmm", state, x, gradient)


PEERS = {
    "nn.RNN": nn_rnn,
    "compiled-nn.RNN": compiled_nn_rnn,
    "textbook": textbook,
    "compiled": compiled,
    "onnxruntime": onnxruntime,
    "jax": jax,
    "onednn": onednn,
    "libxsmm": libxsmm,
}
