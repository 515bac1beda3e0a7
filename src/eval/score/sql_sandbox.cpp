#include "qlora/eval/score/sql_sandbox.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <thread>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/eval/score/sql_worker.h"

namespace qlora {
namespace {

using Clock = std::chrono::steady_clock;

// What a worker is given beyond the query's own limit to report that it ran out of time by itself.
constexpr auto kGrace = std::chrono::milliseconds(200);
constexpr int kMaxIdleDeaths = 16;

// Predictions of one job that wait for a worker.
struct Task {
  size_t job = 0;
  size_t first = 0;
};

// One child, and what it is at.
struct WorkerProcess {
  pid_t pid = -1;
  int socket = -1;
  bool busy = false;
  Task task;
  bool in_gold = false;
  Clock::time_point kill_at;
};

}  // namespace

class SqlSandbox::Pool {
 public:
  explicit Pool(SandboxLimits limits) : limits_(limits) {
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    workers_.resize(static_cast<size_t>(limits_.workers > 0 ? limits_.workers : cores));
    for (auto& worker : workers_) start(worker);
  }
  ~Pool() {
    for (auto& worker : workers_) stop(worker);
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  std::vector<std::vector<ExecutionVerdict>> run(const std::vector<ExecutionJob>& jobs,
                                                 const std::function<void(size_t)>& on_done) {
    Round round(jobs);
    while (round.done < jobs.size()) {
      for (auto& worker : workers_) hand_out(worker, round);
      wait(round);
      if (on_done) on_done(round.done);
    }
    return std::move(round.verdicts);
  }

 private:
  // One call of run().
  struct Round {
    explicit Round(const std::vector<ExecutionJob>& j) : jobs(j) {
      for (size_t i = 0; i < jobs.size(); ++i) {
        verdicts.emplace_back(jobs[i].predictions.size());
        waiting.push_back({i, 0});
      }
    }
    const std::vector<ExecutionJob>& jobs;
    std::vector<std::vector<ExecutionVerdict>> verdicts;
    std::deque<Task> waiting;
    size_t done = 0;
  };

  void start(WorkerProcess& worker) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail("a socket pair");
    const pid_t pid = ::fork();
    if (pid < 0) {
      ::close(ends[0]);
      ::close(ends[1]);
      fail("a process");
    }
    if (pid == 0) {
      ::close(ends[0]);
      run_sql_worker(ends[1], limits_);
    }
    ::close(ends[1]);
    worker = WorkerProcess{};
    worker.pid = pid;
    worker.socket = ends[0];
  }

  [[noreturn]] static void fail(const char* what) {
    throw RuntimeFailure(
        fmt::format("the SQL sandbox cannot make {}: {}; free descriptors or processes", what, std::strerror(errno)));
  }

  static void stop(WorkerProcess& worker) {
    if (worker.pid < 0) return;
    ::close(worker.socket);
    ::kill(worker.pid, SIGKILL);
    while (::waitpid(worker.pid, nullptr, 0) < 0 && errno == EINTR) continue;
    worker.pid = -1;
  }

  void hand_out(WorkerProcess& worker, Round& round) {
    while (!worker.busy && !round.waiting.empty()) {
      worker.task = round.waiting.front();
      round.waiting.pop_front();
      const auto& job = round.jobs[worker.task.job];
      if (worker.task.first == job.predictions.size()) {
        ++round.done;
        continue;
      }
      worker.busy = true;
      worker.in_gold = false;
      set_clock(worker);
      if (!send_message(worker.socket, pack_job(job, worker.task.first))) replace_idle(worker, round);
    }
  }

  // A worker that died while it had nothing to do says nothing about the job.
  void replace_idle(WorkerProcess& worker, Round& round) {
    if (++idle_deaths_ > kMaxIdleDeaths) fail("workers that live");
    round.waiting.push_front(worker.task);
    stop(worker);
    start(worker);
  }

  void set_clock(WorkerProcess& worker) const {
    worker.kill_at = Clock::now() +
                     std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limits_.seconds)) +
                     kGrace;
  }

  // Waits for the next word of a worker, or for the end of one's time.
  void wait(Round& round) {
    std::vector<pollfd> sockets;
    std::vector<WorkerProcess*> busy;
    auto next = Clock::time_point::max();
    for (auto& worker : workers_) {
      if (!worker.busy) continue;
      busy.push_back(&worker);
      sockets.push_back({worker.socket, POLLIN, 0});
      next = std::min(next, worker.kill_at);
    }
    if (busy.empty()) return;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
    const int ready = ::poll(sockets.data(), sockets.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (ready < 0 && errno != EINTR) fail("a wait for its workers");
    for (size_t i = 0; i < busy.size(); ++i) {
      if (ready > 0 && sockets[i].revents != 0) {
        listen(*busy[i], round);
      } else if (Clock::now() >= busy[i]->kill_at) {
        give_up(*busy[i], round, ExecutionOutcome::kTimeout, "out of time");
      }
    }
  }

  void listen(WorkerProcess& worker, Round& round) {
    const auto message = receive_message(worker.socket);
    if (!message) return give_up(worker, round, ExecutionOutcome::kCrashed, "the worker died");
    WireReader in(*message);
    while (!in.at_end()) take(worker, in, round);
    set_clock(worker);
  }

  static void take(WorkerProcess& worker, WireReader& in, Round& round) {
    switch (static_cast<WorkerEvent>(in.number())) {
      case WorkerEvent::kQueryStarts:
        worker.in_gold = in.number() == 1;
        break;
      case WorkerEvent::kSyntaxValid:
        round.verdicts.at(worker.task.job).at(worker.task.first).syntax_valid = true;
        break;
      case WorkerEvent::kVerdict: {
        auto& verdict = round.verdicts.at(worker.task.job).at(worker.task.first++);
        verdict.outcome = static_cast<ExecutionOutcome>(in.number());
        verdict.message = in.text();
        verdict.gold_result = in.text();
        verdict.result = in.text();
        break;
      }
      case WorkerEvent::kJobDone:
        worker.busy = false;
        ++round.done;
        break;
    }
  }

  // The worker is replaced; the prediction it was at is judged, those after it go back to the queue. Where the gold was
  // at fault, all of them are.
  void give_up(WorkerProcess& worker, Round& round, ExecutionOutcome outcome, const char* message) {
    Task task = worker.task;
    auto& verdicts = round.verdicts[task.job];
    const size_t end = worker.in_gold ? verdicts.size() : std::min(task.first + 1, verdicts.size());
    for (; task.first < end; ++task.first) {
      verdicts[task.first].outcome = worker.in_gold ? ExecutionOutcome::kGoldFailed : outcome;
      verdicts[task.first].message = message;
    }
    stop(worker);
    start(worker);
    round.waiting.push_front(task);
  }

  SandboxLimits limits_;
  std::vector<WorkerProcess> workers_;
  int idle_deaths_ = 0;
};

SqlSandbox::SqlSandbox(SandboxLimits limits) : pool_(std::make_unique<Pool>(limits)) {}
SqlSandbox::~SqlSandbox() = default;

std::vector<std::vector<ExecutionVerdict>> SqlSandbox::run(const std::vector<ExecutionJob>& jobs,
                                                           const std::function<void(size_t)>& on_done) {
  for (const auto& job : jobs) {
    if (job.databases.empty()) throw RuntimeFailure("an SQL job without a database: " + job.gold);
  }
  return pool_->run(jobs, on_done);
}

}  // namespace qlora
