#include "cpu/own_threads.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <exception>
#include <utility>

namespace rnnfused {
namespace {

// pthreads, because the names of the standard library's templates would be exported.
class OwnThreads {
 public:
  void run(int64_t count, Task task) {
    lock();
    if (task_) {
      unlock();
      for (int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    task_ = &task;
    count_ = left_ = count;
    next_ = 0;
    while (threads_ + 1 < count && start()) ++threads_;
    for (int64_t i = 1; i < count; ++i) pthread_cond_signal(&begins_);
    take_tasks();
    while (left_ > 0) pthread_cond_wait(&ends_, &mutex_);
    task_ = nullptr;
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    unlock();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

  // Runs tasks until each has been taken. The caller holds the mutex, but no task runs under it.
  void take_tasks() {
    while (task_ && next_ < count_) {
      const Task& task = *task_;
      const int64_t i = next_++;
      std::exception_ptr failure;
      unlock();
      try {
        task(i);
      } catch (...) {  // the other tasks run, then the caller gets it
        failure = std::current_exception();
      }
      lock();
      if (failure) failure_ = std::move(failure);
      if (--left_ == 0) pthread_cond_signal(&ends_);
    }
  }

  static void* serve(void* threads) {
    OwnThreads& all = *static_cast<OwnThreads*>(threads);
    all.lock();
    for (;;) {
      all.take_tasks();
      pthread_cond_wait(&all.begins_, &all.mutex_);
    }
  }

  // Starts a thread that takes no signals: they are the program's.
  bool start() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const bool starts = pthread_create(&thread, nullptr, &serve, this) == 0;
    if (starts) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return starts;
  }

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t begins_ = PTHREAD_COND_INITIALIZER, ends_ = PTHREAD_COND_INITIALIZER;
  int64_t threads_ = 0;                      // started
  const Task* task_ = nullptr;               // of the call that has the threads
  int64_t count_ = 0, next_ = 0, left_ = 0;  // tasks: all, the next to be taken, not done
  std::exception_ptr failure_;
};

// Never deleted: its threads wait until the process ends.
std::atomic<OwnThreads*> own_threads{nullptr};

// The parent's threads are gone in a child, and one of them may have held the mutex.
const int has_fork_handler = pthread_atfork(nullptr, nullptr, [] { own_threads = nullptr; });

OwnThreads& this_process_threads() {
  OwnThreads* found = own_threads;
  if (found) return *found;
  OwnThreads* const made = new OwnThreads;
  if (own_threads.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

void run_on_own_threads(int64_t count, Task task) { this_process_threads().run(count, task); }

}  // namespace rnnfused
