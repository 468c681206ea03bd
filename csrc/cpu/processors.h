// The number of processors that this process may use. torch.set_num_threads may ask for more threads than that: those
// would take turns, and wait for each other at every step.
#pragma once

#include <cstdint>
#include <string>

namespace rnnfused {

// At least 1. The processors that the calling thread may run on, or all online ones where OpenMP pins threads; but no
// more than the quota of the process's control groups at the first call. RNNFUSED_PROCESSORS replaces both; throws
// std::runtime_error if it is no number from 1 to 1024.
int64_t available_processors();

// Whether OpenMP pins each of its threads to some processors, the caller of its pool too. Threads inherit that.
bool openmp_pins_threads();

// The least CPU quota of a process's control groups, in whole processors, rounded up; 0: none. `groups` is the content
// of /proc/self/cgroup, `root` the folder where the groups are mounted.
int64_t processor_quota(const std::string& groups, const std::string& root);

}  // namespace rnnfused
