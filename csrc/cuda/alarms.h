// The alarms of watchdog.h on the host: their memory, and the numbers of launches. launch.h has the rest.
#pragma once

#include "cuda/watchdog.h"

namespace rnnfused {
namespace cuda {

// The watchdog of the next launch on the current device. Throws std::runtime_error with the text of an alarm that an
// earlier call has raised there.
Watchdog next_watchdog();

}  // namespace cuda
}  // namespace rnnfused
