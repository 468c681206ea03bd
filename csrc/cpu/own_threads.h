// Threads that the library starts itself and keeps, where those of its caller's library do not suit: they are gone in a
// forked child, and a library with more threads than processors wakes all of them at each start.
#pragma once

#include <cstdint>

#include "cpu/workers.h"

namespace rnnfused {

// A ParallelFor. The calling thread works too. While another call has the threads, it works alone; so it does where no
// thread starts. A forked child starts threads of its own.
void run_on_own_threads(int64_t count, Task task);

}  // namespace rnnfused
