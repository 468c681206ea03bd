// The sizes of a call of the recurrence, read from its tensors: which rows take part in which steps, and where
// they lie.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensors.h"

namespace rnnfused {

// The tensors that say which rows of a sequence take part in which steps; at most one is there.
struct Extents {
  OptionalTensor batch_sizes, lengths;
};

// The number of features that weight_hh, (hidden, hidden) or (heads, part, part), is for.
inline int64_t hidden_size_of(const Tensor& weight_hh) {
  RNNFUSED_CHECK(weight_hh.dim() == 2 || weight_hh.dim() == 3, "weight_hh must be (hidden, hidden)");
  return weight_hh.dim() == 2 ? weight_hh.size(0) : weight_hh.size(0) * weight_hh.size(1);
}

// The sizes of a call, with the memory that pointers to rows' sizes need. `sequence` is (time, batch, hidden);
// or (rows, hidden), of steps one after another with batch_sizes, of rows one after another with lengths.
struct Problem {
  std::vector<int64_t> batch_sizes, step_starts, lengths, places, state_rows;
  int64_t num_steps = 0, batch_size = 0, hidden_size = 0, num_rows = -1;

  Problem(const Tensor& sequence, const Extents& extents)
      : Problem(sequence, extents, sequence.size(sequence.dim() - 1)) {}

  // The sequence may also be token ids, without the dimension of features.
  Problem(const Tensor& sequence, const Extents& extents, int64_t hidden_size, bool ids = false)
      : hidden_size(hidden_size) {
    const int64_t dims = sequence.dim() + ids;
    RNNFUSED_CHECK(!(extents.batch_sizes && extents.lengths), "there are batch_sizes or lengths, not both");
    RNNFUSED_CHECK((dims == 3 && !extents.batch_sizes) || (dims == 2 && (extents.batch_sizes || extents.lengths)),
                   "a sequence is (time, batch, features), or (rows, features) with batch_sizes or lengths");
    if (dims == 2) num_rows = sequence.size(0);
    if (dims == 3) {
      num_steps = sequence.size(0);
      batch_size = sequence.size(1);
    }
    if (extents.batch_sizes) read_batch_sizes(*extents.batch_sizes);
    if (extents.lengths) read_lengths(*extents.lengths);
    RNNFUSED_CHECK(hidden_size >= 1 && (num_steps >= 1 || (extents.lengths && dims == 2)),
                   "there must be a step and a hidden unit");
  }

  static const int64_t* sizes_data(const Tensor& sizes, const char* name) {
    RNNFUSED_CHECK(sizes.is_cpu() && is_int64(sizes) && sizes.dim() == 1 &&
                       sizes.is_contiguous(),
                   name + std::string(" must be a contiguous 1-D int64 tensor on the CPU"));
    return static_cast<const int64_t*>(sizes.const_data_ptr());
  }

  void read_batch_sizes(const Tensor& sizes) {
    const int64_t* data = sizes_data(sizes, "batch_sizes");
    num_steps = sizes.size(0);
    batch_sizes.assign(data, data + num_steps);
    batch_size = num_steps ? batch_sizes[0] : 0;
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

  void read_lengths(const Tensor& sizes) {
    const int64_t* data = sizes_data(sizes, "lengths");
    const int64_t count = sizes.size(0), most = num_rows < 0 ? num_steps : num_rows;
    RNNFUSED_CHECK(num_rows >= 0 || count == batch_size, "lengths must have a value for every row");
    batch_size = count;
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
    std::stable_sort(state_rows.begin(), state_rows.end(), [&](int64_t a, int64_t b) { return data[a] > data[b]; });
    for (const int64_t row : state_rows) {
      lengths.push_back(data[row]);
      places.push_back(num_rows < 0 ? row : starts[row]);
    }
    if (num_rows >= 0) num_steps = count ? lengths[0] : 0;
    if (count == 0) return;  // as any empty batch
    int64_t active = count;
    for (int64_t t = 0; t < num_steps; ++t) {
      while (active > 0 && lengths[active - 1] <= t) --active;
      batch_sizes.push_back(active);
    }
  }

  bool has_lengths() const { return !lengths.empty(); }

  void fill(Recurrence& call, const Tensor& sequence, const Tensor& weight_hh,
            const std::string& nonlinearity, bool reverse) const {
    check_like(weight_hh, sequence, "weight_hh");
    const int64_t rows = weight_hh.dim() - 2;
    RNNFUSED_CHECK(hidden_size_of(weight_hh) == hidden_size && weight_hh.size(rows) == weight_hh.size(rows + 1),
                   "weight_hh must be (hidden, hidden), or (heads, hidden / heads, hidden / heads)");
    RNNFUSED_CHECK(nonlinearity == "tanh" || nonlinearity == "relu",
                   "nonlinearity must be 'tanh' or 'relu'");
    call.num_steps = num_steps;
    call.batch_size = batch_size;
    call.hidden_size = hidden_size;
    call.num_rows = num_rows;
    call.dtype = dtype_of(sequence);
    call.nonlinearity = nonlinearity == "relu" ? Nonlinearity::relu : Nonlinearity::tanh;
    call.reverse = reverse;
    if (!batch_sizes.empty()) call.batch_sizes = batch_sizes.data();
    if (!step_starts.empty()) call.step_starts = step_starts.data();
    if (has_lengths()) {
      call.lengths = lengths.data();
      call.places = places.data();
      call.state_rows = state_rows.data();
    }
    call.weight_hh = {weight_hh.const_data_ptr(), weight_hh.stride(rows), weight_hh.stride(rows + 1)};
    if (rows > 0) {
      call.num_heads = weight_hh.size(0);
      call.head_stride = weight_hh.stride(0);
    }
  }

  // What no step writes: a sequence past its rows' ends is zero.
  void clear_past_ends(const Sequence& sequence, int64_t item_bytes) const {
    if (num_rows >= 0) return;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const Sequence row = skip(sequence, places[i] * sequence.batch_stride, item_bytes);
      for (int64_t t = lengths[i]; t < num_steps; ++t) {
        std::memset(skip(row, t * row.time_stride, item_bytes).data, 0, hidden_size * item_bytes);
      }
    }
  }

  // A row without a step ends in the state that it starts with, which may be zeros.
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
    return {data, tensor.stride(0), tensor.stride(tensor.dim() == 3 ? 1 : 0)};
  }

  // A sequence that comes with `model`, of the same sizes.
  ConstSequence input(const Tensor& tensor, const Tensor& model, const char* name) const {
    check_like(tensor, model, name);
    RNNFUSED_CHECK(tensor.dim() == model.dim(), std::string(name) + " has a wrong shape");
    for (int64_t i = 0; i < model.dim(); ++i) {
      RNNFUSED_CHECK(tensor.size(i) == model.size(i), std::string(name) + " has a wrong shape");
    }
    return view<const void*>(tensor, tensor.const_data_ptr(), name);
  }

  // A layer's states are (1, batch, hidden), as those of several layers are (layers, batch, hidden).
  ConstState state(const OptionalTensor& tensor, const Tensor& model, const char* name, int64_t dims) const {
    if (!tensor) return {};
    check_like(*tensor, model, name);
    RNNFUSED_CHECK(tensor->dim() == dims && (dims == 2 || tensor->size(0) == 1) &&
                       tensor->size(dims - 2) == batch_size && tensor->size(dims - 1) == hidden_size,
                   name + std::string(dims == 2 ? " must be (batch, hidden)" : " must be (1, batch, hidden)"));
    check_features(*tensor, name);
    return {tensor->const_data_ptr(), tensor->stride(dims - 2)};
  }
  Tensor new_state(const Tensor& model, int64_t rows, int64_t dims) const {
    return dims == 2 ? new_tensor(model, {rows, hidden_size}) : new_tensor(model, {1, rows, hidden_size});
  }
};

}  // namespace rnnfused
