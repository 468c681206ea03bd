// The alarms of all devices, on the host.
#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>

#include "cuda/alarms.h"
#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {
namespace {

// Of each thread, so that a check of one thread shortens no call, nor capture, of another.
thread_local double time_limit = kTimeLimit;
std::atomic<uint64_t> launches{0};

int current_device() {
  int device = 0;
  RNNFUSED_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

// The alarm of a device, never freed: a kernel may still look at it when the process ends. Null if it does not exist
// and `create` is false.
Alarm* alarm_of(int device, bool create) {
  static std::mutex mutex;
  static std::map<int, Alarm*>* const alarms = new std::map<int, Alarm*>;
  const std::lock_guard<std::mutex> lock(mutex);
  Alarm*& alarm = (*alarms)[device];
  if (alarm || !create) return alarm;
  // A stream that is being captured forbids allocations of other threads, unless they ask.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  RNNFUSED_CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
  void* memory = nullptr;
  const cudaError_t result = cudaHostAlloc(&memory, sizeof(Alarm), cudaHostAllocMapped | cudaHostAllocPortable);
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  RNNFUSED_CUDA_CHECK(result);
  return alarm = new (memory) Alarm;
}

uint64_t launch_in(const Alarm* alarm) { return *static_cast<const volatile uint64_t*>(&alarm->launch); }

}  // namespace

void set_time_limit(double seconds) {
  if (!(seconds > 0 && seconds < 1e9)) {
    throw std::runtime_error("rnnfused: the time limit must be between 0 and 1e9 seconds; got " +
                             std::to_string(seconds));
  }
  time_limit = seconds;
}

bool has_alarm() {
  const Alarm* alarm = alarm_of(current_device(), false);
  return alarm && launch_in(alarm) != 0;
}

std::string take_alarm() {
  if (!has_alarm()) return "";
  const int device = current_device();
  Alarm* alarm = alarm_of(device, false);
  // Blocks that still wait must see the alarm, and those that leave say where they waited.
  const cudaError_t error = cudaDeviceSynchronize();
  const std::string text = text_of(*alarm, device);
  if (error == cudaSuccess) {
    *alarm = Alarm();
  } else {
    (void)cudaGetLastError();
  }
  return text;
}

Watchdog next_watchdog() {
  const std::string text = take_alarm();
  if (!text.empty()) throw std::runtime_error(text);
  Watchdog watchdog;
  Alarm* alarm = alarm_of(current_device(), true);
  void* on_device = nullptr;
  RNNFUSED_CUDA_CHECK(cudaHostGetDevicePointer(&on_device, alarm, 0));
  watchdog.alarm = static_cast<Alarm*>(on_device);
  watchdog.limit = static_cast<uint64_t>(time_limit * 1e9);
  watchdog.launch = ++launches;
  return watchdog;
}

}  // namespace cuda
}  // namespace rnnfused
