// Worker threads for the driver. As torch's, they stay from call to call, and the caller is one of them.
#pragma once

#include "cpu/workers.h"

namespace rnnfused {

// `count` workers, of which the first call starts all but the caller.
Workers pool_workers(int64_t count);

}  // namespace rnnfused
