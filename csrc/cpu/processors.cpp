#include "cpu/processors.h"

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace rnnfused {
namespace {

constexpr int64_t kMost = 1024;

// Those named by RNNFUSED_PROCESSORS; 0: the variable is not set.
int64_t named_processors() {
  const char* const text = std::getenv("RNNFUSED_PROCESSORS");
  if (!text || !*text) return 0;
  char* end = nullptr;
  const int64_t count = std::strtoll(text, &end, 10);
  if (*end || count < 1 || count > kMost) {
    throw std::runtime_error("rnnfused: RNNFUSED_PROCESSORS is \"" + std::string(text) +
                             "\", but must be a number of processors from 1 to 1024");
  }
  return count;
}

std::string lower_case_variable(const char* name) {
  const char* const text = std::getenv(name);
  std::string value(text ? text : "");
  for (char& letter : value) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return value;
}

// OpenMP's own rule: places imply that threads are pinned, unless OMP_PROC_BIND says no.
bool pins_by_environment() {
  const std::string bind = lower_case_variable("OMP_PROC_BIND"), intel = lower_case_variable("KMP_AFFINITY");
  if (bind == "false" || intel == "disabled") return false;
  if (!bind.empty() || !(intel.empty() || intel == "none")) return true;
  return !lower_case_variable("OMP_PLACES").empty() || !lower_case_variable("GOMP_CPU_AFFINITY").empty();
}

int64_t processors_of_thread() {
#ifdef __linux__
  // A pinned thread's affinity says nothing.
  if (openmp_pins_threads()) return std::max<int64_t>(sysconf(_SC_NPROCESSORS_ONLN), 1);
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max<int64_t>(std::thread::hardware_concurrency(), 1);
}

// A quota in processors; 0: none.
int64_t rounded_up(double quota, double period) {
  return quota > 0 && period > 0 ? static_cast<int64_t>((quota + period - 1) / period) : 0;
}

// The quota of one group of version 2, from "150000 100000" or "max 100000"; or of version 1, from two files.
int64_t quota_of(const std::string& group) {
  double quota = 0, period = 0;
  if (std::ifstream(group + "/cpu.max") >> quota >> period) return rounded_up(quota, period);
  if (!(std::ifstream(group + "/cpu.cfs_quota_us") >> quota)) return 0;
  if (!(std::ifstream(group + "/cpu.cfs_period_us") >> period)) return 0;
  return rounded_up(quota, period);
}

int64_t own_quota() {
  std::ifstream file("/proc/self/cgroup");
  std::stringstream groups;
  groups << file.rdbuf();
  return processor_quota(groups.str(), "/sys/fs/cgroup");
}

}  // namespace

int64_t processor_quota(const std::string& groups, const std::string& root) {
  int64_t least = 0;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // "0::/path", or "4:cpu,cpuacct:/path" in version 1
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string mount = controllers == ",," ? root : root + "/cpu";
    // The groups around a group limit it too. In a container the path may not exist, but its root does.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      const int64_t quota = quota_of(mount + path);
      if (quota > 0) least = least ? std::min(least, quota) : quota;
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

bool openmp_pins_threads() {
  static const bool pins = pins_by_environment();
  return pins;
}

int64_t available_processors() {
  static const int64_t named = named_processors();
  if (named) return named;
  static const int64_t quota = own_quota();
  const int64_t count = processors_of_thread();
  return quota ? std::min(count, quota) : count;
}

}  // namespace rnnfused
