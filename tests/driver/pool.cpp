#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace rnnfused {
namespace {

class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    begin_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void grow(int64_t workers) {
    while (static_cast<int64_t>(threads_.size()) + 1 < workers) threads_.emplace_back([this] { serve(); });
  }

  void run(int64_t count, Task task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      busy_ = threads_.size();
      ++call_;
    }
    begin_.notify_all();
    take(task, count);
    std::unique_lock<std::mutex> lock(mutex_);
    end_.wait(lock, [&] { return busy_ == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void take(const Task& task, int64_t count) {
    for (int64_t i; (i = next_.fetch_add(1)) < count;) {
      try {
        task(i);
      } catch (...) {  // as torch's parallel_for: the other tasks run, then the caller gets an error
        const std::lock_guard<std::mutex> lock(mutex_);
        error_ = std::current_exception();
      }
    }
  }

  void serve() {
    int64_t seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      begin_.wait(lock, [&] { return ends_ || call_ > seen; });
      if (ends_) return;
      seen = call_;
      const Task& task = *task_;
      const int64_t count = count_;
      lock.unlock();
      take(task, count);
      lock.lock();
      if (--busy_ == 0) end_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const Task* task_ = nullptr;
  int64_t count_ = 0, call_ = 0;
  size_t busy_ = 0;
  std::exception_ptr error_;
  std::atomic<int64_t> next_{0};
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

Pool pool;

}  // namespace

Workers pool_workers(int64_t count) {
  pool.grow(count);
  return {count, [](int64_t tasks, Task task) { pool.run(tasks, task); }};
}

}  // namespace rnnfused
