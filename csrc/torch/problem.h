// Reads the sizes of a call from its tensors: the rows of each step, and where they lie in memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "torch/tensors.h"

namespace rnnfused {

// The tensors that give the rows of each step; at most one of them exists.
struct Extents {
  OptionalTensor batch_sizes, lengths;
};

// The hidden size of weight_hh, which is (hidden, hidden) or (heads, part, part).
inline int64_t hidden_size_of(const Tensor& weight_hh) {
  RNNFUSED_CHECK(weight_hh.dim() == 2 || weight_hh.dim() == 3, "weight_hh must be (hidden, hidden)");
  return weight_hh.dim() == 2 ? weight_hh.size(0) : weight_hh.size(0) * weight_hh.size(1);
}

// The sizes of a sequence or a state, of at most three dimensions.
struct Shape {
  int64_t sizes[3];
  size_t dims;

  operator Sizes() const { return Sizes(sizes, dims); }
};

// The sizes of a call, and the memory that the pointers of RecurrenceParams refer to. The dimensions of a sequence
// before its features are
//   (time, batch), or (time) without a batch           with time_dim 0
//   (batch, time)                                      with time_dim 1
//   (batch), or none                                   with time_dim -1: a single step
//   (rows): all steps one after another                with batch_sizes
//   (rows): all rows' steps one after another          with lengths, which also allow a batch
class Problem {
 public:
  std::vector<int64_t> batch_sizes, step_starts, lengths, sequence_rows, state_rows;
  int64_t num_steps = 1, batch_size = 1, hidden_size = 0, num_rows = -1;

  // Reads only shapes. The sequence may be token ids, which lack features.
  Problem(const Tensor& sequence, const Extents& extents, int64_t time_dim, int64_t hidden_size, bool ids = false)
      : hidden_size(hidden_size), extents_(extents), time_dim_(time_dim) {
    RNNFUSED_CHECK(!(extents.batch_sizes && extents.lengths), "there are batch_sizes or lengths, not both");
    RNNFUSED_CHECK(time_dim >= -1 && time_dim <= 1, "time_dim must be 0, 1, or -1 without a dimension of time");
    const int64_t dims = sequence.dim() - !ids, batch_dims = dims - (time_dim >= 0);
    if (dims == 1 && (extents.batch_sizes || extents.lengths)) {
      RNNFUSED_CHECK(time_dim == 0, "rows one after another have time_dim 0");
      num_rows = sequence.size(0);
      batch_size = extents.lengths ? sizes_data(*extents.lengths, "lengths").count : first_batch_size();
      num_steps = 0;  // read_extents() sets it
      return;
    }
    RNNFUSED_CHECK(!extents.batch_sizes && (batch_dims == 0 || batch_dims == 1) && time_dim < dims,
                   "a sequence is (time, batch, features), or as time_dim says, or (rows, features) with batch_sizes "
                   "or lengths");
    if (time_dim >= 0) num_steps = sequence.size(time_dim);
    if (batch_dims == 1) batch_dim_ = time_dim == 0 ? 1 : 0;
    if (batch_dims == 1) batch_size = sequence.size(batch_dim_);
    RNNFUSED_CHECK(!extents.lengths || (time_dim >= 0 && batch_dims == 1), "lengths are for a batch");
    RNNFUSED_CHECK(num_steps >= 1, "there must be a step");
  }

  // Reads the rows of each step. Call it last, when shapes are valid and results have memory: it takes time and memory
  // for each step.
  void read_extents() {
    if (extents_.batch_sizes) read_batch_sizes();
    if (extents_.lengths) read_lengths();
    RNNFUSED_CHECK(num_steps >= 1 || (extents_.lengths && is_flat()), "there must be a step");
  }

  bool is_flat() const { return num_rows >= 0; }

  void read_batch_sizes() {
    const auto [data, count] = sizes_data(*extents_.batch_sizes, "batch_sizes");
    num_steps = count;
    batch_sizes.assign(data, data + num_steps);
    int64_t rows = 0;
    for (int64_t t = 0; t < num_steps; ++t) {
      RNNFUSED_CHECK(batch_sizes[t] >= 1 && (t == 0 || batch_sizes[t] <= batch_sizes[t - 1]),
                     "batch_sizes must be positive and never increase");
      RNNFUSED_CHECK(batch_sizes[t] <= num_rows - rows, "batch_sizes must add up to the rows of the data");
      step_starts.push_back(rows);
      rows += batch_sizes[t];
    }
    RNNFUSED_CHECK(rows == num_rows, "batch_sizes must add up to the rows of the data");
  }

  void read_lengths() {
    const auto [data, count] = sizes_data(*extents_.lengths, "lengths");
    const int64_t most = num_rows < 0 ? num_steps : num_rows;
    RNNFUSED_CHECK(count == batch_size, "lengths must have a value for every row");
    std::vector<int64_t> starts;
    int64_t rows = 0;
    for (int64_t b = 0; b < count; ++b) {
      RNNFUSED_CHECK(data[b] >= 0 && data[b] <= most - (num_rows < 0 ? 0 : rows),
                     "lengths must be within the sequence");
      starts.push_back(rows);
      rows += data[b];
      state_rows.push_back(b);
    }
    RNNFUSED_CHECK(num_rows < 0 || rows == num_rows, "lengths must add up to the rows of the data");
    std::sort(state_rows.begin(), state_rows.end(), [values = data](int64_t a, int64_t b) {
      return values[a] > values[b] || (values[a] == values[b] && a < b);
    });
    for (const int64_t row : state_rows) {
      lengths.push_back(data[row]);
      sequence_rows.push_back(num_rows < 0 ? row : starts[row]);
    }
    if (num_rows >= 0) num_steps = count ? lengths[0] : 0;
    if (count == 0 || hidden_size == 0) return;  // no step has work
    int64_t active = count;
    for (int64_t t = 0; t < num_steps; ++t) {
      while (active > 0 && lengths[active - 1] <= t) --active;
      batch_sizes.push_back(active);
    }
  }

  bool has_lengths() const { return !lengths.empty(); }

  void fill(RecurrenceParams& params, const Tensor& sequence, const Tensor& weight_hh, int64_t nonlinearity,
            bool reverse) const {
    check_like(weight_hh, sequence, "weight_hh");
    const int64_t rows = weight_hh.dim() - 2;
    RNNFUSED_CHECK(hidden_size_of(weight_hh) == hidden_size && weight_hh.size(rows) == weight_hh.size(rows + 1),
                   "weight_hh must be (hidden, hidden), or (heads, hidden / heads, hidden / heads)");
    RNNFUSED_CHECK(nonlinearity == 0 || nonlinearity == 1, "nonlinearity must be 0 (tanh) or 1 (relu)");
    params.num_steps = num_steps;
    params.batch_size = batch_size;
    params.hidden_size = hidden_size;
    params.num_rows = num_rows;
    params.dtype = dtype_of(sequence);
    params.nonlinearity = nonlinearity == 1 ? Nonlinearity::relu : Nonlinearity::tanh;
    params.reverse = reverse;
    if (!batch_sizes.empty()) params.batch_sizes = batch_sizes.data();
    if (!step_starts.empty()) params.step_starts = step_starts.data();
    if (has_lengths()) {
      params.lengths = lengths.data();
      params.sequence_rows = sequence_rows.data();
      params.state_rows = state_rows.data();
    }
    params.weight_hh = {data_of(weight_hh, "weight_hh"), weight_hh.stride(rows), weight_hh.stride(rows + 1)};
    if (rows > 0) {
      params.num_heads = weight_hh.size(0);
      params.head_stride = weight_hh.stride(0);
    }
  }

  // Writes zeros past the ends of rows, which no step writes.
  void clear_past_ends(const Sequence& sequence, int64_t size, int64_t item_bytes) const {
    if (num_rows >= 0 || size == 0) return;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const Sequence row = skip(sequence, sequence_rows[i] * sequence.batch_stride, item_bytes);
      for (int64_t t = lengths[i]; t < num_steps; ++t) {
        std::memset(skip(row, t * row.time_stride, item_bytes).data, 0, size * item_bytes);
      }
    }
  }

  // Copies the first state of rows without a step to their last state; a null first state is zeros.
  void pass_states(const ConstState& from, const State& to, int64_t item_bytes) const {
    for (size_t i = lengths.size(); to.data && i-- > 0 && lengths[i] == 0;) {
      const int64_t b = state_rows[i], bytes = hidden_size * item_bytes;
      void* const row = skip(to, b * to.batch_stride, item_bytes).data;
      if (from.data) {
        std::memcpy(row, skip(from, b * from.batch_stride, item_bytes).data, bytes);
      } else {
        std::memset(row, 0, bytes);
      }
    }
  }

  template <class Pointer>
  SequenceOf<Pointer> view(const Tensor& tensor, Pointer data, const char* name) const {
    check_features(tensor, name);
    return rows_of(tensor, data);
  }

  // The view of a sequence's rows, or of its token ids.
  template <class Pointer>
  SequenceOf<Pointer> rows_of(const Tensor& tensor, Pointer data) const {
    if (is_flat()) return {data, tensor.stride(0), tensor.stride(0)};
    // A missing dimension gets the stride of a contiguous one.
    if (batch_dim_ < 0) {
      const int64_t stride = time_dim_ == 0 ? tensor.stride(0) : hidden_size;
      return {data, stride, stride};
    }
    const int64_t batch_stride = tensor.stride(batch_dim_);
    return {data, time_dim_ >= 0 ? tensor.stride(time_dim_) : batch_size * batch_stride, batch_stride};
  }

  // The view of a sequence with the sizes of `model`.
  ConstSequence input(const Tensor& tensor, const Tensor& model, const char* name) const {
    check_like(tensor, model, name);
    check_sizes(tensor, model.sizes(), name);
    return view<const void*>(tensor, data_of(tensor, name), name);
  }

  // The sizes of a sequence of this call with `features` features.
  Shape sequence_sizes(int64_t features) const {
    Shape result = {{0, 0, 0}, 0};
    if (is_flat()) result.sizes[result.dims++] = num_rows;
    if (!is_flat() && time_dim_ == 1) result.sizes[result.dims++] = batch_size;
    if (!is_flat() && time_dim_ >= 0) result.sizes[result.dims++] = num_steps;
    if (time_dim_ != 1 && batch_dim_ >= 0) result.sizes[result.dims++] = batch_size;
    result.sizes[result.dims++] = features;
    return result;
  }

  // The sizes of a state: (1, batch, hidden), or (1, hidden) without a batch; without the 1 for a single step.
  Shape state_sizes() const {
    Shape result = {{1, 0, 0}, time_dim_ >= 0};
    if (is_flat() || batch_dim_ >= 0) result.sizes[result.dims++] = batch_size;
    result.sizes[result.dims++] = hidden_size;
    return result;
  }

  ConstState state(const OptionalTensor& tensor, const Tensor& model, const char* name) const {
    if (!tensor) return {};
    check_like(*tensor, model, name);
    const Shape sizes = state_sizes();
    check_sizes(*tensor, sizes, name);
    check_features(*tensor, name);
    return {data_of(*tensor, name), sizes.dims >= 2 ? tensor->stride(sizes.dims - 2) : hidden_size};
  }

 private:
  struct Values {
    const int64_t* data;
    int64_t count;
  };

  static Values sizes_data(const Tensor& sizes, const char* name) {
    RNNFUSED_CHECK(sizes.is_cpu() && is_int64(sizes) && sizes.dim() == 1 && sizes.is_contiguous(),
                   name + std::string(" must be a contiguous 1-D int64 tensor on the CPU"));
    return {int64_data_of(sizes, name), sizes.size(0)};
  }

  int64_t first_batch_size() const {
    const Values sizes = sizes_data(*extents_.batch_sizes, "batch_sizes");
    const int64_t first = sizes.count ? sizes.data[0] : 0;
    RNNFUSED_CHECK(first <= num_rows, "batch_sizes must add up to the rows of the data");
    return first;
  }

  static void check_sizes(const Tensor& tensor, Sizes sizes, const char* name) {
    RNNFUSED_CHECK(static_cast<size_t>(tensor.dim()) == sizes.size() &&
                       std::equal(sizes.begin(), sizes.end(), tensor.sizes().begin()),
                   std::string(name) + " has a wrong shape");
  }

  Extents extents_;
  int64_t time_dim_, batch_dim_ = -1;  // dimensions of the sequences; -1: missing
};

}  // namespace rnnfused
