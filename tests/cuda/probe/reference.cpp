#include "reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace rnnfused {
namespace probe {
namespace {

// Sums of H products, by any order and with any grouping, stay within this many roundoffs of sqrt(H) magnitudes in
// practice; a proof gives H in place of sqrt(H).
constexpr double kSumFactor = 8;

class Comparison {
 public:
  explicit Comparison(const Call& call) : call_(call), transposed_(call.hidden_size * call.hidden_size) {
    for (int64_t i = 0; i < call.hidden_size; ++i) {
      for (int64_t j = 0; j < call.hidden_size; ++j) {
        transposed_[j * call.hidden_size + i] = call.weight[i * call.hidden_size + j];
      }
    }
  }

  const double* transposed() const { return transposed_.data(); }

  // The array's row of a step; null if `t` is no step or the row takes no part in it.
  const double* row_of(const double* array, int64_t t, int64_t row) const {
    const bool exists = t >= 0 && t < call_.num_steps && row < call_.batch_sizes[t];
    return exists ? array + (call_.step_starts[t] + row) * call_.hidden_size : nullptr;
  }

  // The step of a row before `t` in the order of the forward loop, or after it; num_steps if there is none.
  int64_t neighbour(int64_t t, int64_t row, bool before) const {
    const int64_t there = before == call_.reverse ? t + 1 : t - 1;
    return there >= 0 && there < call_.num_steps && row < call_.batch_sizes[there] ? there : call_.num_steps;
  }

  // sums = start + state W'^T for the rows of `matrix` = W'^T, and the sums of the absolute values. Null: zeros.
  void product(const double* start, const double* state, const double* matrix) {
    const int64_t size = call_.hidden_size;
    sums.assign(size, 0);
    magnitudes.assign(size, 0);
    if (start) {
      for (int64_t j = 0; j < size; ++j) {
        sums[j] = start[j];
        magnitudes[j] = std::fabs(start[j]);
      }
    }
    if (!state) return;
    for (int64_t k = 0; k < size; ++k) {
      const double value = state[k];
      const double* column = matrix + k * size;
      for (int64_t j = 0; j < size; ++j) {
        const double term = value * column[j];
        sums[j] += term;
        magnitudes[j] += std::fabs(term);
      }
    }
  }

  void compare(double got, double expected, double magnitude, int64_t step, int64_t row, int64_t unit) {
    const double size = static_cast<double>(call_.hidden_size);
    const double bound = call_.stored_roundoff * std::fabs(expected) + call_.stored_smallest +
                         kSumFactor * call_.sum_roundoff * (std::sqrt(size) * magnitude + 1);
    const double difference = std::fabs(got - expected);
    const double error = std::isnan(difference) ? HUGE_VAL : difference / bound;
    ++verdict.checked;
    verdict.worst = std::max(verdict.worst, error);
    if (error > 1 && ++verdict.wrong == 1) {
      verdict.step = step;
      verdict.row = row;
      verdict.unit = unit;
      verdict.got = got;
      verdict.expected = expected;
    }
  }

  std::vector<double> sums, magnitudes;
  Verdict verdict;

 private:
  const Call& call_;
  std::vector<double> transposed_;
};

// Calls `use` with each checked step, in the order of a loop.
template <class Use>
void in_order(bool ascending, const int64_t* steps, int64_t count, const Use& use) {
  for (int64_t i = 0; i < count; ++i) use(steps[ascending ? i : count - 1 - i]);
}

}  // namespace

Verdict check_forward(const Call& call, const ForwardArrays& arrays, const int64_t* steps, int64_t num_checked_steps,
                      const int64_t* rows, int64_t num_checked_rows) {
  Comparison comparison(call);
  const int64_t size = call.hidden_size;
  in_order(!call.reverse, steps, num_checked_steps, [&](int64_t t) {
    for (int64_t i = 0; i < num_checked_rows && rows[i] < call.batch_sizes[t]; ++i) {
      const int64_t row = rows[i];
      const double* before = comparison.row_of(arrays.output, comparison.neighbour(t, row, true), row);
      if (!before && arrays.h_0) before = arrays.h_0 + row * size;
      comparison.product(comparison.row_of(arrays.projections, t, row), before, comparison.transposed());
      const double* got = comparison.row_of(arrays.output, t, row);
      for (int64_t j = 0; j < size; ++j) {
        const double sum = comparison.sums[j];
        const double expected = call.relu ? std::max(sum, 0.0) : std::tanh(sum);
        comparison.compare(got[j], expected, comparison.magnitudes[j], t, row, j);
      }
    }
  });
  for (int64_t i = 0; i < num_checked_rows; ++i) {
    const int64_t row = rows[i];
    int64_t last = 0;
    while (comparison.neighbour(last, row, false) < call.num_steps) last = comparison.neighbour(last, row, false);
    const double* state = comparison.row_of(arrays.output, last, row);
    for (int64_t j = 0; j < size; ++j) comparison.compare(arrays.h_n[row * size + j], state[j], 0, last, row, j);
  }
  return comparison.verdict;
}

Verdict check_backward(const Call& call, const BackwardArrays& arrays, const int64_t* steps, int64_t num_checked_steps,
                       const int64_t* rows, int64_t num_checked_rows) {
  Comparison comparison(call);
  const int64_t size = call.hidden_size;
  in_order(call.reverse, steps, num_checked_steps, [&](int64_t t) {
    for (int64_t i = 0; i < num_checked_rows && rows[i] < call.batch_sizes[t]; ++i) {
      const int64_t row = rows[i];
      const double* after = comparison.row_of(arrays.grad_projections, comparison.neighbour(t, row, false), row);
      comparison.product(comparison.row_of(arrays.grad_output, t, row), after, call.weight);
      const double* h = comparison.row_of(arrays.output, t, row);
      const double* got = comparison.row_of(arrays.grad_projections, t, row);
      for (int64_t j = 0; j < size; ++j) {
        const double last = !after && arrays.grad_h_n ? arrays.grad_h_n[row * size + j] : 0;
        const double slope = call.relu ? (h[j] > 0 ? 1 : 0) : 1 - h[j] * h[j];
        comparison.compare(got[j], (comparison.sums[j] + last) * slope, comparison.magnitudes[j] + std::fabs(last), t,
                           row, j);
      }
    }
  });
  if (!arrays.grad_h_0) return comparison.verdict;
  for (int64_t i = 0; i < num_checked_rows; ++i) {
    const int64_t row = rows[i];
    int64_t first = 0;
    while (comparison.neighbour(first, row, true) < call.num_steps) first = comparison.neighbour(first, row, true);
    comparison.product(nullptr, comparison.row_of(arrays.grad_projections, first, row), call.weight);
    for (int64_t j = 0; j < size; ++j) {
      comparison.compare(arrays.grad_h_0[row * size + j], comparison.sums[j], comparison.magnitudes[j], first, row, j);
    }
  }
  return comparison.verdict;
}

}  // namespace probe
}  // namespace rnnfused

// For ctypes. The verdict is {checked, wrong, step, row, unit} and {worst, got, expected}.
extern "C" {

__attribute__((visibility("default"))) void rnnfused_probe_check(bool forward, const rnnfused::probe::Call* call,
                                                                 const void* arrays, const int64_t* steps,
                                                                 int64_t num_checked_steps, const int64_t* rows,
                                                                 int64_t num_checked_rows,
                                                                 rnnfused::probe::Verdict* verdict) {
  using namespace rnnfused::probe;
  *verdict = forward ? check_forward(*call, *static_cast<const ForwardArrays*>(arrays), steps, num_checked_steps, rows,
                                     num_checked_rows)
                     : check_backward(*call, *static_cast<const BackwardArrays*>(arrays), steps, num_checked_steps,
                                      rows, num_checked_rows);
}
}
