// The choice of a layout: of all teams that hold the weight, the one whose steps should take the least time.
#pragma once

#include <cstdint>

#include "cuda/cost.h"
#include "cuda/plan.h"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {

// The plan of a team of this kind that lets about `teams` teams run the batch, with its estimate; blocks is 0 if it does
// not hold the call, or does not run the whole batch at once. `teams_of(plan)` returns how many teams of a plan the
// device runs at the same time, 0 if none.
template <class Product, class TeamsOf>
Plan plan_of_team(const Device& device, int64_t hidden_size, int64_t batch_size, int blocks, Exchange exchange,
                  int64_t teams, const TeamsOf& teams_of) {
  while (teams > 0) {
    Plan plan = make_plan<Product>(hidden_size, batch_size, blocks, exchange, teams, device.shared_bytes);
    if (plan.batch_tile == 0) break;
    const int64_t possible = teams_of(plan);
    if (possible == 0) break;
    const int64_t needed = (batch_size + plan.batch_tile - 1) / plan.batch_tile;
    if (blocks == 1 || needed <= possible) {
      plan.estimated_us =
          static_cast<float>(estimated_step_us<Product>(device, plan, hidden_size, batch_size, possible));
      return plan;
    }
    // Clusters do not cross groups of multiprocessors, so fewer teams may run: give each more rows.
    if (possible >= teams) break;
    teams = possible;
  }
  return Plan();
}

// The layout of a call; blocks is 0 where a matrix product per step is surely faster. Where both are near, the device
// times them.
template <class Product, class TeamsOf>
Plan choose_plan(const Device& device, int64_t hidden_size, int64_t batch_size, const TeamsOf& teams_of) {
  Plan best;
  double least = costs::kMargin * step_us_by_kernels<Product>(device, hidden_size, batch_size);
  const auto consider = [&](int blocks, Exchange exchange) {
    // Small blocks share a multiprocessor, so that each has fewer rows.
    for (int sharers = 1; sharers <= kMaxSharers; sharers *= 2) {
      const int64_t teams = sharers * device.multiprocessors / blocks;
      const Plan plan = plan_of_team<Product>(device, hidden_size, batch_size, blocks, exchange, teams, teams_of);
      if (plan.blocks == 0) continue;
      if (plan.estimated_us < least) {
        best = plan;
        least = plan.estimated_us;
      }
      if (plan.batch_tile == 1) break;
    }
  };
  consider(1, Exchange::none);
  for (int blocks = 2; blocks <= kMaxCluster; blocks *= 2) consider(blocks, Exchange::cluster);
  for (int blocks = 2; blocks <= kMaxGridTeam; blocks *= 2) consider(blocks, Exchange::grid);
  return best;
}

}  // namespace cuda
}  // namespace rnnfused
