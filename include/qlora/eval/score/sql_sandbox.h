// Runs SQL that a model wrote, in child processes that can do no harm, and scores its results against the gold's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace qlora {

// What became of one prediction. Only kEqual scores 1.
enum class ExecutionOutcome : uint8_t {
  kEqual,
  kDifferent,
  kError,  // SQLite refused it, at the start or on the way; also what the sandbox forbids
  kTimeout,
  kMemory,      // a value, a result or the work needed more than the limits
  kCrashed,     // the worker died
  kEmpty,       // no statement in it
  kGoldFailed,  // the gold itself could not be run: `message` says why
};

struct ExecutionVerdict {
  ExecutionOutcome outcome = ExecutionOutcome::kEmpty;
  bool syntax_valid = false;  // exactly one statement, which SQLite compiles for the first database, only reading it
  std::string message;        // SQLite's, where there is one
  // The first rows on the database that decided, as text; of the prediction no further than to the first difference.
  // `result` is empty where it is equal or no row of it was compared.
  std::string gold_result, result;

  bool equal() const { return outcome == ExecutionOutcome::kEqual; }
};

// One gold and the predictions to score against it. With several databases of one schema a prediction must agree with
// the gold on each.
struct ExecutionJob {
  std::vector<std::string> databases;  // SQLite files
  std::string gold;                    // as written: it is rewritten by executable_gold
  std::vector<std::string> predictions;
  // Where a prediction is not equal, it is run with the gold's values in place of its own, too, in all ways
  // (ValuePlugging): equal where one is. All ways together take no longer than one query may.
  bool plug_values = false;
};

struct SandboxLimits {
  double seconds = 30.0;                    // for each query; a verdict comes within 0.5 s more
  size_t memory_bytes = size_t{256} << 20;  // a worker may take on top of what it was born with
  int workers = 0;                          // 0: one a core
};

// A pool of worker processes. They are forked from this process, so make the pool before the process is large, and use
// it from one thread. In a worker: databases opened read-only and immutable, an authorizer that lets SELECT, READ,
// FUNCTION (but load_extension) and RECURSIVE pass, SQLite's limits, no write to any file (RLIMIT_FSIZE 0), no further
// process, no network (seccomp where the kernel has it), an address-space cap, none of this process's descriptors.
// A worker that outlives its time is killed and replaced.
class SqlSandbox {
 public:
  // Throws RuntimeFailure where processes cannot be made.
  explicit SqlSandbox(SandboxLimits limits);
  ~SqlSandbox();
  SqlSandbox(const SqlSandbox&) = delete;
  SqlSandbox& operator=(const SqlSandbox&) = delete;

  // One verdict for each prediction of each job, in their order. `on_done` hears how many jobs are done.
  std::vector<std::vector<ExecutionVerdict>> run(const std::vector<ExecutionJob>& jobs,
                                                 const std::function<void(size_t)>& on_done = {});

 private:
  class Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace qlora
