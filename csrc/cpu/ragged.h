// A batch whose rows end at different steps (packed, or with lengths) runs in parts of some steps. A part's projections,
// d, inputs and states lie in memory of its own, step after step without gaps: its products multiply no padding, and
// find their data in cache.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// Steps [first, last) of a ragged batch, which must outlive it.
class RaggedPart {
 public:
  RaggedPart(const RecurrenceParams& batch, int64_t first, int64_t last);

  int64_t rows() const { return starts_.back(); }  // summed over the steps

  // Makes the part's steps those of a loop that starts at the first one, if it ascends, or at the last.
  void take(RecurrenceParams& loop, bool ascends) const;

  // The part of a sequence of the batch.
  template <class Pointer>
  SequenceOf<Pointer> of(const SequenceOf<Pointer>& sequence, int64_t item_bytes) const {
    return batch_.step_starts ? sequence : skip(sequence, first_ * sequence.time_stride, item_bytes);
  }

  // Whether the part's rows lie at one distance in a sequence of the batch; and they. A packed batch has such rows.
  bool lies_in_order() const { return batch_.step_starts; }
  template <class Pointer>
  StateOf<Pointer> in_order(const SequenceOf<Pointer>& sequence, int64_t item_bytes) const {
    return {skip(sequence, batch_.step_starts[first_] * sequence.time_stride, item_bytes).data, sequence.time_stride};
  }

  // Copy the part's rows between a sequence of the batch, of `size` elements per row, and the part's memory.
  void gather(const ConstSequence& from, int64_t size, int64_t item_bytes, void* to, const Workers& workers) const;
  void scatter(const void* from, int64_t size, int64_t item_bytes, const Sequence& to, const Workers& workers) const;

  // Copies, for each row of the part, the state before its step: from the states of the whole batch, or h_0 (null:
  // zeros) at the step where the row starts.
  void gather_states_before(const ConstSequence& states, const ConstState& h_0, bool reverse, int64_t size,
                            int64_t item_bytes, void* to, const Workers& workers) const;

  // Copies the rows of step t from the part's memory to those of a state.
  void copy_step(int64_t t, const void* from, int64_t row_bytes, void* to) const;

 private:
  // Calls run(t, row, row of the part) for all rows of all steps; `bytes` are to be copied for each.
  template <class Run>
  void for_each_row(int64_t bytes, const Workers& workers, const Run& run) const;

  // The rows that run in step t of the batch; none past the last step.
  int64_t rows_of(int64_t t) const { return t < batch_.num_steps ? batch_.batch_sizes[t] : 0; }

  const RecurrenceParams& batch_;
  const int64_t first_, last_;
  std::vector<int64_t> starts_;  // of each step, and the end of the last
};

// The parts of a ragged batch, of about `part_rows` rows, summed over steps.
struct RaggedParts {
  RaggedParts(const RecurrenceParams& batch, int64_t part_rows);

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }

  std::vector<int64_t> starts = {0};  // and the end of the last
  int64_t most_rows = 0;              // of a part
};

}  // namespace rnnfused
