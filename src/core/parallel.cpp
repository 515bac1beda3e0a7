// A small pool of threads: one job at a time, its ranges taken from a shared counter.
#include "qlora/core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace qlora {
namespace {

int threads_from_environment() {
  for (const char* name : {"QLORA_THREADS", "OMP_NUM_THREADS"}) {
    if (const char* value = std::getenv(name)) {
      const int threads = std::atoi(value);
      if (threads > 0) return threads;
    }
  }
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

struct Job {
  std::int64_t count = 0;
  std::int64_t step = 0;
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  std::int64_t error_at = 0;

  void run() {
    for (;;) {
      const std::int64_t begin = next.fetch_add(step);
      if (begin >= count) return;
      try {
        (*body)(begin, std::min(count, begin + step));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error || begin < error_at) {
          error = std::current_exception();
          error_at = begin;
        }
      }
    }
  }
};

class Pool {
 public:
  Pool() : threads_(threads_from_environment()) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { stop(); }

  int threads() const { return threads_; }

  void resize(int threads) {
    const std::lock_guard user(user_);
    stop();
    threads_ = std::max(1, threads);
  }

  // False where another thread uses the pool: the caller then works alone.
  bool try_run(Job& job) {
    const std::unique_lock user(user_, std::try_to_lock);
    if (!user.owns_lock()) return false;
    start();
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
      busy_ = static_cast<int>(workers_.size());
    }
    wake_.notify_all();
    job.run();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    job_ = nullptr;
    return true;
  }

 private:
  void start() {
    while (static_cast<int>(workers_.size()) < threads_ - 1) {
      workers_.emplace_back([this, seen = generation_]() mutable { work(seen); });
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    ending_ = false;
  }

  void work(std::uint64_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return ending_ || generation_ != seen; });
      if (ending_) return;
      seen = generation_;
      Job* job = job_;
      lock.unlock();
      job->run();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  int threads_;
  std::mutex user_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
  std::uint64_t generation_ = 0;
  Job* job_ = nullptr;
  int busy_ = 0;
  bool ending_ = false;
};

Pool& pool() {
  static Pool instance;
  return instance;
}

thread_local bool inside_job = false;

}  // namespace

int parallel_threads() {
  return pool().threads();
}
void set_parallel_threads(int threads) {
  pool().resize(threads);
}

void parallel_for(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  const std::int64_t ranges = (count + grain - 1) / grain;
  if (ranges == 1 || inside_job || parallel_threads() == 1) return body(0, count);

  Job job;
  job.count = count;
  // Four ranges a thread even out unequal cores; more would only touch the counter.
  const std::int64_t wanted = std::max<std::int64_t>(1, ranges / (4 * parallel_threads()));
  job.step = wanted * grain;
  const std::function<void(std::int64_t, std::int64_t)> guarded = [&body](std::int64_t begin, std::int64_t end) {
    struct Inside {
      Inside() { inside_job = true; }
      ~Inside() { inside_job = false; }
    } const inside;
    body(begin, end);
  };
  job.body = &guarded;
  if (!pool().try_run(job)) return body(0, count);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace qlora
