// What both libraries are driven through: one layer, and the functions that native.py calls.
// A source file that includes this is a shared library of its own: it defines make_peer.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>

// A vanilla RNN layer with tanh. All arrays are float32 and contiguous, in the layouts of torch.nn.RNN.
// native.py has the same fields.
struct Layer {
  std::int64_t num_steps, batch_size, input_size, hidden_size, num_threads;
  const float* x;         // (num_steps, batch_size, input_size)
  const float* gradient;  // of the states: (num_steps, batch_size, hidden_size)
  const float* weight_ih;
  const float* weight_hh;
  const float* bias_ih;
  const float* bias_hh;
  float* states;  // (num_steps, batch_size, hidden_size); the initial state, zeros, lies before it
  float* grad_weight_ih;
  float* grad_weight_hh;
  float* grad_bias;  // both biases have this gradient
};

// Memory is allocated once. Parameters live in the order in which the library returns their gradients, where an
// optimizer would update them. forward uses layouts that are made of them once, as inference does. forward_backward
// makes these in each call, because training changes the parameters between calls.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual void forward() = 0;
  virtual void forward_backward() = 0;
  // Copies the gradients of the last forward_backward into the layer's arrays.
  virtual void copy_gradients() = 0;
};

std::unique_ptr<Peer> make_peer(const Layer& layer);

// Returns null, or the message of the exception.
template <class Call>
const char* message_of(Call call) {
  static std::string message;
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

extern "C" {
const char* peer_create(const Layer* layer, Peer** peer) {
  return message_of([=] { *peer = make_peer(*layer).release(); });
}
const char* peer_forward(Peer* peer) {
  return message_of([=] { peer->forward(); });
}
const char* peer_forward_backward(Peer* peer) {
  return message_of([=] { peer->forward_backward(); });
}
const char* peer_copy_gradients(Peer* peer) {
  return message_of([=] { peer->copy_gradients(); });
}
void peer_destroy(Peer* peer) { delete peer; }
}
