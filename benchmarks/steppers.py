"""One step after the other with a carried state, without gradients, in rnnfused and its peers.

A stepper takes a state dict of nn.RNN and an input (1, B, I), and returns a call that makes a step and returns its state.
"""

import torch
from peers import nn_rnn_module, onnx_session

import rnnfused


def prepared(state, x):
    hidden_size, input_size = state["weight_ih_l0"].shape
    module = rnnfused.RNN(input_size, hidden_size)
    module.load_state_dict(state)
    rnn, row = rnnfused.prepare(module), x[0]
    return lambda: rnn.step(row)


def nn_rnn(state, x):
    module, h = nn_rnn_module(state), None

    def step():
        nonlocal h
        with torch.no_grad():
            _, h = module(x, h)
        return h

    return step


def onnxruntime(state, x):
    session, row = onnx_session(state, x, carries_state=True), x.numpy()
    h = torch.zeros(1, x.size(1), len(state["weight_hh_l0"])).numpy()

    def step():
        nonlocal h
        (h,) = session.run(None, {"X": row, "H": h})
        return h

    return step


def jax(state, x):
    import jax
    import jax.numpy as jnp

    weight_ih, weight_hh, bias_ih, bias_hh = (
        jnp.asarray(w.detach().numpy()) for w in state.values()
    )
    weight_ih, weight_hh, bias = weight_ih.T, weight_hh.T, bias_ih + bias_hh
    row, h = jnp.asarray(x[0].numpy()), jnp.zeros((x.size(1), len(weight_hh)))

    @jax.jit
    def new_state(h, x):
        return jnp.tanh(x @ weight_ih + h @ weight_hh + bias)

    def step():
        nonlocal h
        h = new_state(h, row).block_until_ready()
        return h

    return step


PEERS = {"nn.RNN": nn_rnn, "onnxruntime": onnxruntime, "jax": jax}
