// Runs the CUDA kernels without torch: every kind of team, from the simplest to the hardest, against the host's
// arithmetic in double. Prints a line of JSON per call. .ci/gpu_check builds and runs it.
//
//   probe                   all cases
//     --from N              from the N-th on
//     --only NAME           those whose name starts with NAME, or is NAME
//     --without NAME        not those whose name starts with NAME
//     --few                 a few cases of a few steps, without times; few steps of the grids
//     --time-limit S        a kernel that waits longer gives up
//     --sweep               every plan at the shapes of the benchmark
//   probe --list            the names of the cases; needs no GPU
//   probe --plans           the planner's choices
//   probe --two-grids       two cooperative launches at the same time
//
// Exit status: 0 all right; 1 a result was wrong; 2 no GPU; 3 wrong arguments; 4 the GPU gave an error, after which
// this process can launch nothing more.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cases.h"
#include "device_call.h"
#include "json.h"

using namespace rnnfused;
using namespace rnnfused::probe;

namespace {

constexpr int kWrong = 1, kNoGpu = 2, kUsage = 3, kDead = 4;

// Whether an error has ended this process's use of the GPU.
bool is_dead() { return cudaDeviceSynchronize() != cudaSuccess; }

struct Failure : std::runtime_error {
  Failure(const char* status, const std::string& message) : std::runtime_error(message), status(status) {}
  const char* status;
};

void finish_launch() {
  RNNFUSED_CUDA_CHECK(cudaDeviceSynchronize());
  const std::string text = cuda::take_alarm();
  if (!text.empty()) throw Failure("alarm", text);
}

void put_verdict(Row& row, const Verdict& verdict) {
  row.put("checked", verdict.checked).put("wrong", verdict.wrong).put("error_over_bound", verdict.worst);
  if (verdict.wrong == 0) return;
  row.put("first_wrong_step", verdict.step).put("first_wrong_row", verdict.row).put("first_wrong_unit", verdict.unit);
  row.put("got", verdict.got).put("expected", verdict.expected);
}

void run(const Case& tested, bool timed, Row& row) {
  DeviceCall call(tested);
  row.put("used_plan", name_of(call.plan())).put("details", cuda::describe(call.plan()));
  row.put("hidden_size", call.hidden_size()).put("num_steps", call.num_steps());
  row.put("estimated_us_per_step", call.plan().estimated_us);
  call.launch(call.num_steps());
  finish_launch();
  const auto results = call.results();
  const Verdict verdict = call.check(results);
  put_verdict(row, verdict);
  if (call.is_overrun()) throw Failure("overrun", "the kernel wrote behind a result or its workspace");
  if (verdict.wrong > 0) throw Failure("wrong", "values differ from the host's");
  call.poison();
  call.launch(call.num_steps());
  finish_launch();
  if (call.results() != results) throw Failure("unstable", "a second launch gave other bits");
  if (!timed) return;
  const int64_t half = call.num_steps() / 2;
  const double all = call.microseconds(call.num_steps()), first_half = call.microseconds(half);
  finish_launch();
  // The difference leaves the launch and the load of the weight out.
  row.put("us", all).put("us_per_step", (all - first_half) / static_cast<double>(call.num_steps() - half));
}

struct Options {
  std::string mode, only, without;
  bool few = false, sweep = false;
  int64_t from = 0;
  double time_limit = 1;
};

// Prints the row of a case; returns the exit status.
int run_and_print(const Case& tested, int64_t index, bool timed) {
  Row started;
  started.put("index", index).put("case", tested.name()).put("status", "started").print();
  Row row;
  row.put("index", index).put("case", tested.name()).put("plan", tested.plan).put("dtype", name_of(tested.dtype));
  row.put("way", tested.forward ? "forward" : "backward").put("batch_size", tested.batch_size);
  int result = 0;
  try {
    run(tested, timed, row);
    row.put("status", "ok");
  } catch (const Refused& refused) {
    row.put("status", "refused").put("message", refused.what());
  } catch (const Failure& failure) {
    result = kWrong;
    row.put("status", failure.status).put("message", failure.what());
  } catch (const std::exception& error) {
    result = is_dead() ? kDead : kWrong;
    row.put("status", "error").put("message", error.what());
  }
  row.print();
  return result;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

int run_cases(const std::vector<Case>& cases, const Options& options) {
  const bool timed = !options.few;
  int worst = 0;
  for (size_t i = options.from; i < cases.size(); ++i) {
    const std::string name = cases[i].name();
    if (!starts_with(name, options.only)) continue;
    if (!options.without.empty() && starts_with(name, options.without)) continue;
    const int status = run_and_print(cases[i], static_cast<int64_t>(i), timed);
    if (status == kDead) return kDead;
    worst = status > worst ? status : worst;
  }
  return worst;
}

int list(const std::vector<Case>& cases) {
  for (size_t i = 0; i < cases.size(); ++i) {
    Row row;
    row.put("index", static_cast<int64_t>(i)).put("case", cases[i].name()).print();
  }
  return 0;
}

int print_plans() {
  force_plan("");
  for (const Dtype dtype : kDtypes) {
    for (const int64_t hidden_size : {32, 128, 256, 512, 1024, 2048}) {
      for (const int64_t batch_size : {1, 16, 64, 256, 1024}) {
        RecurrenceParams params;
        params.hidden_size = hidden_size;
        params.batch_size = batch_size;
        params.dtype = dtype;
        const cuda::Plan plan = cuda::plan_for(params);
        Row row;
        row.put("dtype", name_of(dtype)).put("hidden_size", hidden_size).put("batch_size", batch_size);
        row.put("plan", name_of(plan));
        if (plan.blocks > 0) row.put("details", cuda::describe(plan)).put("tile", plan.batch_tile);
        row.print();
      }
    }
  }
  return 0;
}

// Where both launches together have more blocks than the GPU runs at once, one must wait for the other.
int run_two_grids(int blocks, bool few) {
  const std::string name = "two grids of " + std::to_string(blocks) + " blocks";
  Row().put("case", name).put("status", "started").print();
  Row row;
  row.put("case", name);
  try {
    Case tested;
    tested.plan = "grid," + std::to_string(blocks);
    tested.num_steps = few ? 5 : 512;
    tested.batch_size = 4;
    tested.hidden_sizes = {few ? 128 : 1024};
    std::vector<std::unique_ptr<DeviceCall>> calls;
    std::vector<std::vector<std::vector<char>>> expected;
    std::vector<cudaStream_t> streams(2);
    for (auto& stream : streams) {
      tested.forward = calls.empty();
      calls.push_back(std::make_unique<DeviceCall>(tested));
      RNNFUSED_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      calls.back()->launch(tested.num_steps);
      finish_launch();
      expected.push_back(calls.back()->results());
      calls.back()->poison();
    }
    RNNFUSED_CUDA_CHECK(cudaDeviceSynchronize());
    for (int round = 0; round < 10; ++round) {
      for (size_t i = 0; i < calls.size(); ++i) calls[i]->launch(tested.num_steps, streams[i]);
    }
    finish_launch();
    for (size_t i = 0; i < calls.size(); ++i) {
      if (calls[i]->results() != expected[i]) throw Failure("wrong", "side by side, the results are others");
    }
    row.put("status", "ok").print();
    return 0;
  } catch (const Refused& refused) {
    row.put("status", "refused").put("message", refused.what()).print();
    return 0;
  } catch (const Failure& failure) {
    row.put("status", failure.status).put("message", failure.what()).print();
  } catch (const std::exception& error) {
    row.put("status", "error").put("message", error.what()).print();
  }
  return is_dead() ? kDead : kWrong;
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool takes_value = word == "--from" || word == "--only" || word == "--without" || word == "--time-limit";
    if (takes_value && i + 1 == count) throw std::invalid_argument(word + " needs a value");
    if (word == "--from") {
      options.from = std::stoll(words[++i]);
    } else if (word == "--only") {
      options.only = words[++i];
    } else if (word == "--without") {
      options.without = words[++i];
    } else if (word == "--time-limit") {
      options.time_limit = std::stod(words[++i]);
    } else if (word == "--few") {
      options.few = true;
    } else if (word == "--sweep") {
      options.sweep = true;
    } else if (word == "--list" || word == "--plans" || word == "--two-grids") {
      options.mode = word;
    } else {
      throw std::invalid_argument("unknown argument " + word);
    }
  }
  if (options.from < 0) throw std::invalid_argument("--from must not be negative");
  return options;
}

int run_all(const Options& options) {
  const std::vector<Case> cases = options.few ? few_cases() : options.sweep ? sweep_cases() : all_cases();
  if (options.mode == "--list") return list(cases);
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "probe: no NVIDIA GPU: %s\n", cudaGetErrorString(error));
    return kNoGpu;
  }
  cuda::set_time_limit(options.time_limit);
  if (options.mode == "--plans") return print_plans();
  if (options.mode == "--two-grids") {
    int worst = 0;
    for (const int blocks : {32, 64, 128}) {
      const int status = run_two_grids(blocks, options.few);
      if (status == kDead) return kDead;
      worst = status > worst ? status : worst;
    }
    return worst;
  }
  return run_cases(cases, options);
}

}  // namespace

int main(int count, char** words) {
  try {
    return run_all(parse(count, words));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "probe: %s\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "probe: %s\n", error.what());
    return kWrong;
  }
}
