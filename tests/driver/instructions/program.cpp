// Runs layers forward and backward, for a count of the instructions. Float32, one thread; batches are (time, batch).
//
//   program T,B,I,H ..
//
// The function `counted` makes the calls: for each shape forward, then backward. A tiny shape comes first: its calls load
// the kernels and allocate the memory that a thread keeps.
#include <cinttypes>
#include <cstdio>
#include <utility>

#include "buffer.h"
#include "cpu/layer_backward.h"
#include "cpu/layer_forward.h"
#include "layer_gradients.h"

using namespace rnnfused;

// The empty statement prevents a tail call, before which this function would end.
extern "C" [[gnu::noinline]] void counted(FunctionRef<void()> call) {
  call();
  asm volatile("");
}

namespace {

constexpr Dtype kDtype = Dtype::float32;

struct Shape {
  int64_t steps, batch, features, hidden;
};

void take_shape(RecurrenceParams& params, const Shape& shape, const void* weight_hh) {
  params.num_steps = shape.steps;
  params.batch_size = shape.batch;
  params.hidden_size = shape.hidden;
  params.dtype = kDtype;
  params.weight_hh = {weight_hh, shape.hidden, 1};
}

void run(const Shape& shape, void (*make)(FunctionRef<void()>)) {
  const auto [steps, batch, features, hidden] = shape;
  Random random(1);
  Buffers buffers;
  const auto values = [&](int64_t count, double scale) { return buffers.values(kDtype, count, random, scale); };
  const auto result = [&](int64_t count) { return buffers.results(count * bytes_of(kDtype)); };
  const int64_t rows = steps * batch;
  const void* const weight_hh = values(hidden * hidden, 0.0625);

  ForwardParams forward;
  take_shape(forward, shape, weight_hh);
  forward.input = {values(rows * features, 1), batch * features, features};
  forward.input_size = features;
  forward.weight_ih = {values(hidden * features, 0.0625), features, 1};
  forward.bias_ih = values(hidden, 0.0625);
  forward.bias_hh = values(hidden, 0.0625);
  forward.output = {result(rows * hidden), batch * hidden, hidden};
  forward.h_n = {result(batch * hidden), hidden};
  make([&] { run_layer_forward(forward, Workers()); });

  LayerBackwardParams backward;
  take_shape(backward.loop, shape, weight_hh);
  backward.loop.grad_output = {values(rows * hidden, 1), batch * hidden, hidden};
  backward.loop.output = {forward.output.data, batch * hidden, hidden};
  backward.in_parts = true;
  backward.input = forward.input;
  backward.input_size = features;
  backward.weight_ih = forward.weight_ih;
  backward.gradients.weight_ih = result(hidden * features);
  backward.gradients.weight_hh = result(hidden * hidden);
  backward.gradients.bias = result(hidden);
  backward.gradients.input = {result(rows * features), batch * features, features};
  make([&] { run_layer_backward(backward, Workers()); });
}

}  // namespace

int main(int count, char** arguments) {
  run({1, 1, 1, 1}, [](FunctionRef<void()> call) { call(); });
  for (int i = 1; i < count; ++i) {
    Shape shape;
    if (std::sscanf(arguments[i], "%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64, &shape.steps, &shape.batch,
                    &shape.features, &shape.hidden) != 4) {
      std::fprintf(stderr, "usage: program T,B,I,H ..\n");
      return 2;
    }
    run(shape, counted);
  }
}
