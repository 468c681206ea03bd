// Worker threads for the driver. As torch's, they stay from call to call, and the caller is one of them.
#pragma once

#include "cpu/workers.h"

namespace rnnfused {

// Returns `count` workers: the caller, and threads that start at once.
Workers pool_workers(int64_t count);

}  // namespace rnnfused
