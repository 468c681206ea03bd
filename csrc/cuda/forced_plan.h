// A plan that the environment asks for, for tests and to find a faulty one.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/cost.h"
#include "cuda/plan.h"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {

struct ForcedPlan {
  int blocks = 0;  // 0: none is asked for
  Exchange exchange = Exchange::none;
  int batch_tile = 0;  // 0: as many rows as the planner would take
  bool has_send = false;
  Send send = Send::words;
};

// Reads `word` at `tail`, which then points after it; false if it does not stand there.
inline bool skip(const char*& tail, const char* word) {
  const size_t length = std::strlen(word);
  if (std::strncmp(tail, word, length) != 0) return false;
  tail += length;
  return true;
}

// Reads digits, without a sign and not from 0 on, at `tail`, which then points after them; 0 if none stand there.
inline int skip_number(const char*& tail) {
  int number = 0;
  for (int digits = 0; *tail >= (digits ? '0' : '1') && *tail <= '9' && digits < 6; ++digits) {
    number = 10 * number + (*tail++ - '0');
  }
  return number;
}

// Reads ",tile=4" or ",send=wide" at `tail`, which then points after it; false if neither stands there for the first
// time.
inline bool parse_option(const char*& tail, ForcedPlan& plan) {
  if (plan.batch_tile == 0 && skip(tail, ",tile=")) return (plan.batch_tile = skip_number(tail)) > 0;
  if (plan.has_send || plan.exchange != Exchange::cluster || !skip(tail, ",send=")) return false;
  plan.has_send = true;
  const struct {
    const char* text;
    Send send;
  } sends[] = {{"words", Send::words}, {"wide", Send::wide}};
  for (const auto& choice : sends) {
    if (!skip(tail, choice.text)) continue;
    plan.send = choice.send;
    return true;
  }
  return false;
}

// Parses RNNFUSED_CUDA_PLAN: "none", "cluster,8" or "grid,32"; after it at most one ",tile=4", and for a cluster at most
// one ",send=words" or ",send=wide". Null or empty: no plan. Throws std::runtime_error on any other text.
inline ForcedPlan parse_plan(const char* text) {
  ForcedPlan plan;
  if (!text || !*text) return plan;
  const char* tail = text;
  if (skip(tail, "none")) {
    plan.blocks = 1;
  } else {
    const bool is_cluster = skip(tail, "cluster,");
    plan.exchange = is_cluster ? Exchange::cluster : Exchange::grid;
    if (is_cluster || skip(tail, "grid,")) plan.blocks = skip_number(tail);
    const int most = is_cluster ? kMaxCluster : kMaxGridTeam;
    if (plan.blocks < 2 || plan.blocks > most || (plan.blocks & (plan.blocks - 1))) plan.blocks = 0;
  }
  while (plan.blocks && *tail) {
    if (!parse_option(tail, plan)) plan.blocks = 0;
  }
  if (plan.blocks == 0) {
    throw std::runtime_error("RNNFUSED_CUDA_PLAN must be none, cluster,N or grid,N with N a power of two, 2 to " +
                             std::to_string(kMaxCluster) + " or " + std::to_string(kMaxGridTeam) +
                             " blocks, and may end with ,tile=ROWS and, for a cluster, ,send=words or wide; got " +
                             text);
  }
  return plan;
}

// The layout of a call by a forced plan. Throws std::runtime_error if that plan does not hold the call.
template <class Product, class TeamsOf>
Plan force_plan(const ForcedPlan& forced, const Device& device, int64_t hidden_size, int64_t batch_size,
                const TeamsOf& teams_of) {
  const auto attempt = [&](int64_t teams) {
    Plan plan = make_plan<Product>(hidden_size, batch_size, forced.blocks, forced.exchange, teams, device.shared_bytes);
    if (forced.has_send) plan.send = forced.send;
    if (!can_send<Product>(plan, hidden_size, plan.send)) plan.batch_tile = 0;
    if (forced.batch_tile == 0 || plan.batch_tile == 0) return plan;
    if (forced.batch_tile > most_rows<Product>(plan)) plan.batch_tile = 0;
    if (plan.batch_tile > 0) set_rows<Product>(plan, forced.batch_tile);
    if (shared_bytes<Product>(plan) > device.shared_bytes) plan.batch_tile = 0;
    return plan;
  };
  Plan plan = attempt(device.multiprocessors / forced.blocks > 0 ? device.multiprocessors / forced.blocks : 1);
  int64_t possible = plan.batch_tile > 0 ? teams_of(plan) : 0;
  const auto needed = [&] { return (batch_size + plan.batch_tile - 1) / plan.batch_tile; };
  // Blocks of a grid must all run at once; clusters may take turns, but need not where they can take more rows.
  if (possible > 0 && forced.exchange != Exchange::none && needed() > possible) {
    const Plan larger = attempt(possible);
    const bool all = larger.batch_tile > 0 && larger.batch_tile * teams_of(larger) >= batch_size;
    if (all) {
      plan = larger;
      possible = teams_of(larger);
    }
    if (!all && forced.exchange == Exchange::grid) possible = 0;
  }
  if (possible == 0) {
    throw std::runtime_error(
        "RNNFUSED_CUDA_PLAN asks for a plan that does not hold hidden_size=" + std::to_string(hidden_size) +
        " and a batch of " + std::to_string(batch_size) + " rows on this GPU, or a way to send that these sizes lack");
  }
  plan.estimated_us = static_cast<float>(estimated_step_us<Product>(device, plan, hidden_size, batch_size, possible));
  return plan;
}

}  // namespace cuda
}  // namespace rnnfused
