#include "cpu/layer_forward.h"

#include "cpu/dispatch.h"
#include "cpu/projected_forward.h"
#include "cpu/ragged_layer.h"
#include "cpu/recurrence.h"

namespace rnnfused {

void run_layer_forward(const ForwardParams& params, const Workers& workers) {
  if (cpu_kernels().projects(params.num_heads > 1 ? params.of_head(0) : params)) {
    run_forward(params, workers);
  } else if (params.is_ragged()) {
    run_ragged_forward(params, workers);
  } else {
    run_projected_forward(params, {}, workers);
  }
}

}  // namespace rnnfused
