#include "cpu/ragged.h"

#include <algorithm>
#include <cstring>

#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

RaggedParts::RaggedParts(const RecurrenceParams& batch, int64_t part_rows) {
  int64_t steps = 0, rows = 0;
  while (batch.batch_sizes && steps < batch.num_steps && batch.batch_sizes[steps] > 0) {
    rows += batch.batch_sizes[steps++];
  }
  const Parts ends(rows, std::max<int64_t>(1, rows / part_rows));
  int64_t start = 0, end = 0;  // the part's first row and its end
  for (int64_t t = 0; t < steps; ++t) {
    end += batch.batch_sizes[t];
    if (end < ends.begin(count() + 1)) continue;
    starts.push_back(t + 1);
    most_rows = std::max(most_rows, end - start);
    start = end;
  }
}

RaggedPart::RaggedPart(const RecurrenceParams& batch, int64_t first, int64_t last)
    : batch_(batch), first_(first), last_(last), starts_(last - first + 1) {
  for (int64_t t = first; t < last; ++t) starts_[t - first + 1] = starts_[t - first] + rows_of(t);
}

void RaggedPart::take(RecurrenceParams& loop, bool ascends) const {
  loop.num_steps = last_ - first_;
  loop.batch_size = rows_of(first_);
  loop.num_rows = rows();
  loop.batch_sizes = batch_.batch_sizes + first_;
  loop.step_starts = batch_.step_starts ? batch_.step_starts + first_ : nullptr;
  loop.lengths = nullptr;
  loop.part_starts = starts_.data();
  const int64_t across_first = first_ > 0 ? rows_of(first_) : 0, across_last = rows_of(last_);
  loop.rows_before = ascends ? across_first : across_last;
  loop.rows_after = ascends ? across_last : across_first;
}

template <class Run>
void RaggedPart::for_each_row(int64_t bytes, const Workers& workers, const Run& run) const {
  const int64_t steps = last_ - first_;
  const int64_t count = worker_count(product_of(rows(), bytes), kMinGatherPerWorker, workers, steps);
  const Parts shares(rows(), count);
  workers.run(count, [&](int64_t share) {
    const int64_t begin = shares.begin(share), end = shares.begin(share + 1);
    int64_t step = std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin() - 1;
    for (int64_t at = begin; at < end; ++at) {
      while (at >= starts_[step + 1]) ++step;
      run(first_ + step, at - starts_[step], at);
    }
  });
}

void RaggedPart::gather(const ConstSequence& from, int64_t size, int64_t item_bytes, void* to,
                        const Workers& workers) const {
  const int64_t bytes = size * item_bytes;
  for_each_row(bytes, workers, [&](int64_t t, int64_t row, int64_t at) {
    const int64_t place = batch_.step_start(t) * from.time_stride + batch_.sequence_row(row) * from.batch_stride;
    std::memcpy(static_cast<char*>(to) + at * bytes, skip(from, place, item_bytes).data, bytes);
  });
}

void RaggedPart::scatter(const void* from, int64_t size, int64_t item_bytes, const Sequence& to,
                         const Workers& workers) const {
  const int64_t bytes = size * item_bytes;
  for_each_row(bytes, workers, [&](int64_t t, int64_t row, int64_t at) {
    const int64_t place = batch_.step_start(t) * to.time_stride + batch_.sequence_row(row) * to.batch_stride;
    std::memcpy(skip(to, place, item_bytes).data, static_cast<const char*>(from) + at * bytes, bytes);
  });
}

void RaggedPart::gather_states_before(const ConstSequence& states, const ConstState& h_0, bool reverse, int64_t size,
                                      int64_t item_bytes, void* to, const Workers& workers) const {
  const int64_t bytes = size * item_bytes;
  for_each_row(bytes, workers, [&](int64_t t, int64_t row, int64_t at) {
    char* const state = static_cast<char*>(to) + at * bytes;
    const bool starts = reverse ? row >= rows_of(t + 1) : t == 0;
    if (!starts) {
      const int64_t start = batch_.step_start(reverse ? t + 1 : t - 1);
      const int64_t place = start * states.time_stride + batch_.sequence_row(row) * states.batch_stride;
      std::memcpy(state, skip(states, place, item_bytes).data, bytes);
    } else if (h_0.data) {
      std::memcpy(state, skip(h_0, batch_.state_row(row) * h_0.batch_stride, item_bytes).data, bytes);
    } else {
      std::memset(state, 0, bytes);
    }
  });
}

void RaggedPart::copy_step(int64_t t, const void* from, int64_t row_bytes, void* to) const {
  const char* const rows = static_cast<const char*>(from) + starts_[t - first_] * row_bytes;
  for (int64_t row = 0; row < rows_of(t); ++row) {
    std::memcpy(static_cast<char*>(to) + batch_.state_row(row) * row_bytes, rows + row * row_bytes, row_bytes);
  }
}

}  // namespace rnnfused
