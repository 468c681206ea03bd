// The calls that the probe makes, from the simplest to the hardest. Each has a name, by which it can be run alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "params.h"

namespace rnnfused {
namespace probe {

struct Case {
  std::string plan;  // a value of RNNFUSED_CUDA_PLAN; empty: the planner's own choice
  Dtype dtype = Dtype::float32;
  std::string variant;
  bool forward = true;
  int64_t num_steps = 0, batch_size = 0;
  // The largest of these that the plan holds.
  std::vector<int64_t> hidden_sizes;
  bool packed = false, reverse = false, relu = false, has_states = true;

  std::string name() const;
};

constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::bfloat16, Dtype::float16, Dtype::float64};

inline const char* name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return "float32";
    case Dtype::float64: return "float64";
    case Dtype::bfloat16: return "bfloat16";
    case Dtype::float16: return "float16";
  }
  return "?";
}

inline std::string Case::name() const {
  return (plan.empty() ? "auto" : plan) + "/" + name_of(dtype) + "/" + variant + (forward ? "/forward" : "/backward");
}

// The shapes of benchmarks/compare_cuda.py: batch size and hidden size.
struct Shape {
  int64_t batch_size, hidden_size;
};
constexpr Shape kShapes[] = {{1, 512}, {16, 512}, {64, 512}, {32, 256}, {1024, 32}, {64, 1024}, {256, 1024}};

// Adds both ways of a case.
inline void add(std::vector<Case>& cases, Case sample) {
  for (const bool forward : {true, false}) {
    sample.forward = forward;
    cases.push_back(sample);
  }
}

// A plan with few values; with every option the other way; and with the largest weight that it holds.
inline void add_plan(std::vector<Case>& cases, const std::string& plan, Dtype dtype, int64_t num_steps,
                     bool with_full) {
  Case sample;
  sample.plan = plan;
  sample.dtype = dtype;
  sample.variant = "small";
  sample.num_steps = num_steps;
  sample.batch_size = 5;
  sample.hidden_sizes = {64};
  add(cases, sample);
  sample.variant = "packed";
  sample.batch_size = 7;
  sample.hidden_sizes = {93, 61, 64};  // the first two are multiples of no tile
  sample.packed = sample.reverse = sample.relu = true;
  sample.has_states = false;
  add(cases, sample);
  if (!with_full) return;
  sample = Case();
  sample.plan = plan;
  sample.dtype = dtype;
  sample.variant = "full";
  sample.num_steps = num_steps;
  sample.batch_size = 16;
  sample.hidden_sizes = {1024, 900, 720, 600, 512, 384, 350, 256, 230, 180, 160, 128};
  add(cases, sample);
}

// A shape of the benchmark; the hidden size is fixed.
inline void add_shape(std::vector<Case>& cases, const std::string& plan, Dtype dtype, const Shape& shape) {
  Case sample;
  sample.plan = plan;
  sample.dtype = dtype;
  sample.variant = std::to_string(shape.batch_size) + "x" + std::to_string(shape.hidden_size);
  sample.num_steps = 512;
  sample.batch_size = shape.batch_size;
  sample.hidden_sizes = {shape.hidden_size};
  add(cases, sample);
}

inline std::vector<Case> all_cases() {
  constexpr int64_t kSteps = 128;
  std::vector<Case> cases;
  for (const Dtype dtype : kDtypes) add_plan(cases, "none", dtype, kSteps, true);
  for (int blocks = 2; blocks <= 16; blocks *= 2) {
    const std::string cluster = "cluster," + std::to_string(blocks);
    for (const Dtype dtype : kDtypes) add_plan(cases, cluster, dtype, kSteps, true);
    for (const Dtype dtype : kDtypes) add_plan(cases, cluster + ",send=words", dtype, kSteps, true);
  }
  for (int blocks = 2; blocks <= 64; blocks *= 2) {
    for (const Dtype dtype : kDtypes) add_plan(cases, "grid," + std::to_string(blocks), dtype, kSteps, true);
  }
  for (const Shape& shape : kShapes) {
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16}) add_shape(cases, "", dtype, shape);
  }
  return cases;
}

// Every plan at the shapes of the benchmark, to compare the planner's choices and estimates with.
inline std::vector<Case> sweep_cases() {
  std::vector<std::string> plans = {""};
  const auto add_tiles = [&](const std::string& plan, int most) {
    plans.push_back(plan);
    for (int rows = 1; rows <= most; rows *= 2) plans.push_back(plan + ",tile=" + std::to_string(rows));
  };
  add_tiles("none", 8);
  for (int blocks = 2; blocks <= 16; blocks *= 2) {
    add_tiles("cluster," + std::to_string(blocks), 16);
    plans.push_back("cluster," + std::to_string(blocks) + ",send=words");
  }
  for (int blocks = 8; blocks <= 128; blocks *= 2) add_tiles("grid," + std::to_string(blocks), 1);
  std::vector<Case> cases;
  for (const Shape& shape : kShapes) {
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
      for (const std::string& plan : plans) add_shape(cases, plan, dtype, shape);
    }
  }
  return cases;
}

// One of each kind of team in a few steps, for tools that make a kernel a hundred times slower.
inline std::vector<Case> few_cases() {
  std::vector<Case> cases;
  for (const char* plan : {"none", "cluster,2", "cluster,8", "grid,4"}) {
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) add_plan(cases, plan, dtype, 5, false);
  }
  return cases;
}

}  // namespace probe
}  // namespace rnnfused
