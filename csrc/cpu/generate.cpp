#include "cpu/generate.h"

#include <cstring>

#include "cpu/choose.h"
#include "cpu/dispatch.h"
#include "cpu/share.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// What a worker chooses with, and where its symbols go.
struct Writer {
  const GenerateParams& params;
  const Chooser& chooser;

  int64_t write(int64_t row, int64_t step, void* logits) const {
    int64_t* const symbols = params.symbols + row * params.num_symbols;
    const bool has_ended = step > 0 && symbols[step - 1] < 0;
    symbols[step] = has_ended ? -1 : chooser.choose(logits, params.streams[row], params.first_step + step);
    return symbols[step] < 0 ? 0 : symbols[step];  // a row without a choice goes on with any id
  }
};

int64_t write_symbol(void* context, int64_t row, int64_t step, void* logits) {
  return static_cast<const Writer*>(context)->write(row, step, logits);
}

}  // namespace

void pack_generator(const GeneratorSource& source, char* memory, const Workers& workers) {
  const CpuKernels& cpu = cpu_kernels();
  const GeneratorSizes& sizes = source.sizes;
  const GeneratorWeights<char> to = {sizes, memory};
  const int64_t hidden = sizes.hidden_size, item = sizes.item_bytes(), value_bytes = bytes_of(sizes.dtype);
  const auto skip_bytes = [](const void* from, int64_t bytes) { return static_cast<const char*>(from) + bytes; };
  const auto pack = [&](ConstMatrix matrix, int64_t columns, char* packed) {
    const int64_t panel = cpu.panel_columns(sizes.dtype);
    cpu.pack(sizes.dtype, matrix, hidden, columns, packed, 0, (columns + panel - 1) / panel);
  };
  std::memset(memory, 0, sizes.packed_bytes());
  const auto square_of = [&](const void* weights, int64_t i) -> ConstMatrix {  // W^T
    return {skip_bytes(weights, i * hidden * hidden * value_bytes), 1, hidden};
  };
  // One task per layer, one for the table, one for the head.
  workers.run(sizes.num_layers + 2, [&](int64_t task) {
    if (task == sizes.num_layers) {
      for (int64_t id = 0; id < sizes.vocab_size; ++id) {
        std::memcpy(to.table() + id * sizes.table_stride() * item,
                    skip_bytes(source.table.data, id * source.table.batch_stride * item), hidden * item);
      }
    } else if (task == sizes.num_layers + 1) {
      pack(source.head, sizes.vocab_size, to.head());
      if (source.head_bias) std::memcpy(to.head_bias(), source.head_bias, sizes.vocab_size * item);
    } else {
      pack(square_of(source.weights_hh, task), hidden, to.hh(task));
      if (task == 0) return;
      pack(square_of(source.weights_ih, task - 1), hidden, to.ih(task));
      std::memcpy(to.bias(task), skip_bytes(source.biases, (task - 1) * hidden * item), hidden * item);
    }
  });
}

void run_generate(const GenerateParams& params, const Workers& workers) {
  const GeneratorSizes& sizes = params.weights.sizes;
  const int64_t products = product_of(2 * sizes.num_layers - 1, sizes.hidden_size, sizes.hidden_size) +
                           product_of(sizes.hidden_size, sizes.vocab_size);
  const int64_t work = product_of(params.batch_size, params.num_symbols, products);
  check_work(work);
  const int64_t candidates_bytes = Chooser::candidates_bytes(params.choice, sizes.vocab_size);
  share_items(
      params.batch_size, work,
      [&](int64_t rows) { return candidates_bytes + cpu_kernels().generate_scratch_bytes(sizes, rows); },
      [&](void* scratch, int64_t begin, int64_t end) {
        const Chooser chooser(params.choice, sizes.dtype, sizes.vocab_size, candidates_bytes ? scratch : nullptr);
        Writer writer{params, chooser};
        cpu_kernels().generate(params, static_cast<char*>(scratch) + candidates_bytes, begin, end, &write_symbol,
                               &writer);
      },
      workers);
}

}  // namespace rnnfused
