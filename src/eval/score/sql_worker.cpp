#include "qlora/eval/score/sql_worker.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>

#include <spdlog/fmt/fmt.h>
#include <sqlite3.h>

#include "qlora/eval/score/plug_values.h"
#include "qlora/eval/score/result_table.h"
#include "qlora/eval/score/spider_schema.h"
#include "qlora/eval/score/sql_text.h"

namespace qlora {
namespace {

using Clock = std::chrono::steady_clock;
using Statement = std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)>;

constexpr int kOpsBetweenLooksAtTheClock = 2000;
constexpr size_t kOpenDatabases = 16;

// A query that cannot be scored, and what that makes of the prediction.
struct QueryFailure : std::runtime_error {
  QueryFailure(ExecutionOutcome o, const std::string& what) : std::runtime_error(what), outcome(o) {}
  ExecutionOutcome outcome;
};

int authorize(void*, int action, const char*, const char* function, const char*, const char*) {
  if (action == SQLITE_SELECT || action == SQLITE_READ || action == SQLITE_RECURSIVE) return SQLITE_OK;
  const bool harmless = action == SQLITE_FUNCTION && std::strcmp(function, "load_extension") != 0 &&
                        std::strcmp(function, "fts3_tokenizer") != 0;
  return harmless ? SQLITE_OK : SQLITE_DENY;
}

int past_deadline(void* deadline) {
  return Clock::now() > *static_cast<Clock::time_point*>(deadline) ? 1 : 0;
}

void limit(sqlite3* db) {
  sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 16 << 20);
  sqlite3_limit(db, SQLITE_LIMIT_SQL_LENGTH, 1 << 20);
  sqlite3_limit(db, SQLITE_LIMIT_VDBE_OP, 1 << 20);
  sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0);
  sqlite3_limit(db, SQLITE_LIMIT_WORKER_THREADS, 0);
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, nullptr);
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
}

// The databases of the last jobs, kept open.
class Databases {
 public:
  explicit Databases(Clock::time_point* deadline) : deadline_(deadline) {}

  sqlite3* open(const std::string& path) {
    for (auto it = open_.begin(); it != open_.end(); ++it) {
      if (it->first != path) continue;
      open_.splice(open_.begin(), open_, it);
      return open_.front().second.get();
    }
    if (open_.size() == kOpenDatabases) open_.pop_back();
    open_.emplace_front(path, connect(path));
    return open_.front().second.get();
  }

 private:
  using Connection = std::unique_ptr<sqlite3, decltype(&sqlite3_close)>;

  Connection connect(const std::string& path) const {
    sqlite3* raw = nullptr;
    const int rc = sqlite3_open_v2(immutable_sqlite_uri(path).c_str(), &raw,
                                   SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, nullptr);
    Connection db(raw, sqlite3_close);
    if (rc != SQLITE_OK) {
      throw QueryFailure(ExecutionOutcome::kGoldFailed, path + ": cannot be opened: " + sqlite3_errstr(rc));
    }
    sqlite3_exec(raw, "PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0", nullptr, nullptr, nullptr);
    limit(raw);
    sqlite3_set_authorizer(raw, authorize, nullptr);
    sqlite3_progress_handler(raw, kOpsBetweenLooksAtTheClock, past_deadline, deadline_);
    return db;
  }

  Clock::time_point* deadline_;
  std::list<std::pair<std::string, Connection>> open_;
};

[[noreturn]] void fail_with(sqlite3* db, int rc) {
  const int primary = rc & 0xff;
  const auto outcome = primary == SQLITE_INTERRUPT                           ? ExecutionOutcome::kTimeout
                       : primary == SQLITE_NOMEM || primary == SQLITE_TOOBIG ? ExecutionOutcome::kMemory
                                                                             : ExecutionOutcome::kError;
  throw QueryFailure(outcome, sqlite3_errmsg(db));
}

// Compiles the one statement of `sql`; throws where there is none, more than one, or one that may not run.
Statement compile(sqlite3* db, const std::string& sql) {
  if (sql.find('\0') != std::string::npos) throw QueryFailure(ExecutionOutcome::kError, "a NUL character");
  const char* tail = nullptr;
  sqlite3_stmt* raw = nullptr;
  int rc = sqlite3_prepare_v2(db, sql.c_str(), static_cast<int>(sql.size()) + 1, &raw, &tail);
  Statement statement(raw, sqlite3_finalize);
  if (rc != SQLITE_OK) fail_with(db, rc);
  if (raw == nullptr) throw QueryFailure(ExecutionOutcome::kEmpty, "no statement");
  // VACUUM and REINDEX are not shown to the authorizer.
  if (sqlite3_column_count(raw) == 0 || sqlite3_stmt_readonly(raw) == 0) {
    throw QueryFailure(ExecutionOutcome::kError, "no query");
  }
  while (tail != nullptr && *tail != '\0') {
    sqlite3_stmt* next = nullptr;
    rc = sqlite3_prepare_v2(db, tail, -1, &next, &tail);
    const Statement second(next, sqlite3_finalize);
    if (rc != SQLITE_OK) fail_with(db, rc);
    if (next != nullptr) throw QueryFailure(ExecutionOutcome::kError, "more than one statement");
  }
  return statement;
}

ValuePool::Value value_at(sqlite3_stmt* statement, int column) {
  const auto bytes = [&](const void* data) {
    return std::string_view(static_cast<const char*>(data),
                            static_cast<size_t>(sqlite3_column_bytes(statement, column)));
  };
  switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
      return ValuePool::integer(sqlite3_column_int64(statement, column));
    case SQLITE_FLOAT:
      return ValuePool::real(sqlite3_column_double(statement, column));
    case SQLITE_TEXT:
      return ValuePool::text(bytes(sqlite3_column_text(statement, column)));
    case SQLITE_BLOB:
      return ValuePool::blob(bytes(sqlite3_column_blob(statement, column)));
    default:
      return ValuePool::null();
  }
}

// The first rows of a result as people read them: a line a row, " | " between values.
class FirstRows {
 public:
  void add(sqlite3_stmt* statement) {
    if (++rows_ > kRows || text_.size() > kBytes) return;
    for (int c = 0; c < sqlite3_column_count(statement); ++c) {
      if (text_.size() > kBytes) break;
      if (c > 0) text_ += " | ";
      text_ += cell(statement, c);
    }
    text_ += "\n";
  }
  // There are no further rows.
  void end() { whole_ = true; }
  std::string text() const { return text_ + (!whole_ ? "..." : rows_ == 1 ? "1 row" : fmt::format("{} rows", rows_)); }

 private:
  static constexpr size_t kRows = 5, kBytes = 400, kCellBytes = 80;

  static std::string cell(sqlite3_stmt* statement, int column) {
    switch (sqlite3_column_type(statement, column)) {
      case SQLITE_NULL:
        return "NULL";
      case SQLITE_INTEGER:
        return std::to_string(sqlite3_column_int64(statement, column));
      case SQLITE_FLOAT:
        return fmt::format("{}", sqlite3_column_double(statement, column));
      case SQLITE_BLOB:
        return fmt::format("a blob of {} bytes", sqlite3_column_bytes(statement, column));
      default:
        break;
    }
    const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement, column));
    const std::string_view bytes(data, static_cast<size_t>(sqlite3_column_bytes(statement, column)));
    return valid_utf8(bytes.substr(0, kCellBytes)) + (bytes.size() > kCellBytes ? "..." : "");
  }

  std::string text_;
  size_t rows_ = 0;
  bool whole_ = false;
};

// The gold's result on one database, with the values that occur in it.
struct GoldResult {
  explicit GoldResult(size_t memory) : pool(memory) {}
  ValuePool pool;
  ResultTable table;
  std::string first_rows;
};

class Worker {
 public:
  Worker(int socket, const SandboxLimits& limits) : socket_(socket), limits_(limits), databases_(&deadline_) {}

  void serve(const std::string& message) {
    WireReader in(message);
    databases_in_job_.resize(in.number());
    for (auto& database : databases_in_job_) database = in.text();
    const std::string gold = in.text();
    gold_ = executable_gold(gold);
    order_matters_ = order_matters(gold_);
    golds_.clear();
    const bool plug_values = in.number() == 1;
    const uint64_t count = in.number();
    for (uint64_t i = 0; i < count; ++i) {
      const std::string prediction = in.text();
      ExecutionVerdict verdict = judge(prediction);
      if (plug_values && verdict.outcome != ExecutionOutcome::kGoldFailed && equal_when_plugged(gold, prediction))
        verdict = {ExecutionOutcome::kEqual, false, "", gold_rows_, ""};
      say(WorkerEvent::kVerdict).number(static_cast<uint64_t>(verdict.outcome)).text(verdict.message);
      unsent_.text(verdict.gold_result).text(verdict.result);
      if (i + 1 < count) send();
    }
    golds_.clear();
    say(WorkerEvent::kJobDone);
    send();
  }

 private:
  // What is said goes out with the next send(): few messages make a job fast.
  WireWriter& say(WorkerEvent what) { return unsent_.number(static_cast<uint64_t>(what)); }
  void send() {
    send_message(socket_, unsent_.bytes());
    unsent_ = {};
  }

  void start_query(bool gold) {
    say(WorkerEvent::kQueryStarts).number(gold ? 1 : 0);
    send();
    set_deadline();
  }
  void set_deadline() {
    deadline_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limits_.seconds));
  }

  ExecutionVerdict judge(const std::string& prediction) {
    ExecutionVerdict verdict;
    gold_rows_.clear();
    check_syntax(prediction);
    if (trim(prediction).empty()) return verdict;
    try {
      const bool equal = equal_on_all(executable_prediction(prediction), [this] { start_query(false); });
      verdict.outcome = equal ? ExecutionOutcome::kEqual : ExecutionOutcome::kDifferent;
    } catch (const QueryFailure& failure) {
      verdict.outcome = failure.outcome;
      verdict.message = failure.what();
    } catch (const std::bad_alloc&) {
      verdict.outcome = ExecutionOutcome::kMemory;
    }
    verdict.gold_result = gold_rows_;
    if (verdict.outcome == ExecutionOutcome::kDifferent) verdict.result = rows_.text();
    return verdict;
  }

  bool equal_when_plugged(const std::string& gold, const std::string& prediction) {
    if (trim(prediction).empty()) return false;
    ValuePlugging plugging(gold, prediction);
    try {
      for (const auto& database : databases_in_job_) gold_on(database);
    } catch (const QueryFailure&) {
      return false;
    }
    start_query(false);  // the clock of all ways
    while (const auto sql = plugging.next()) {
      try {
        if (Clock::now() > deadline_) return false;
        if (equal_on_all(*sql, [] {})) return true;
      } catch (const QueryFailure&) {
      } catch (const std::bad_alloc&) {  // another choice may be smaller
      }
    }
    return false;
  }

  bool equal_on_all(const std::string& sql, const std::function<void()>& start) {
    return std::all_of(databases_in_job_.begin(), databases_in_job_.end(),
                       [&](const std::string& database) { return equal_on(database, sql, start); });
  }

  // The parent's clock runs already: it started with the job, or with the verdict before.
  void check_syntax(const std::string& prediction) {
    set_deadline();
    try {
      compile(databases_.open(databases_in_job_.at(0)), prediction);
      say(WorkerEvent::kSyntaxValid);
    } catch (const QueryFailure&) {
    } catch (const std::bad_alloc&) {  // not valid within the sandbox's limits
    }
  }

  // The gold runs first, on each database once a job, or again where its results on many do not all fit.
  const GoldResult& gold_on(const std::string& database) {
    if (const auto found = golds_.find(database); found != golds_.end()) return *found->second;
    size_t kept = 0;
    for (const auto& [other, gold] : golds_) kept += gold->pool.bytes();
    if (kept > limits_.memory_bytes / 8) golds_.clear();
    start_query(true);
    try {
      auto result = std::make_unique<GoldResult>(limits_.memory_bytes / 4);
      sqlite3* db = databases_.open(database);
      const Statement statement = compile(db, gold_);
      read_gold(db, statement.get(), *result);
      return *golds_.emplace(database, std::move(result)).first->second;
    } catch (const std::exception& failure) {
      throw QueryFailure(ExecutionOutcome::kGoldFailed, failure.what());
    }
  }

  static void read_gold(sqlite3* db, sqlite3_stmt* statement, GoldResult& result) {
    const int columns = sqlite3_column_count(statement);
    result.table.columns = static_cast<size_t>(columns);
    FirstRows first_rows;
    int rc = SQLITE_OK;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
      first_rows.add(statement);
      for (int c = 0; c < columns; ++c) result.table.cells.push_back(result.pool.add(value_at(statement, c)));
    }
    if (rc != SQLITE_DONE) fail_with(db, rc);
    first_rows.end();
    result.first_rows = first_rows.text();
  }

  // Row by row, no further than to the first value, row or column that the gold does not have: so the prediction's
  // result never takes more room than the gold's.
  bool equal_on(const std::string& database, const std::string& prediction, const std::function<void()>& start) {
    const GoldResult& gold = gold_on(database);
    gold_rows_ = gold.first_rows;
    start();
    sqlite3* db = databases_.open(database);
    const Statement statement = compile(db, prediction);
    const int columns = sqlite3_column_count(statement.get());
    ResultTable table;
    table.columns = static_cast<size_t>(columns);
    rows_ = FirstRows();
    int rc = SQLITE_OK;
    while ((rc = sqlite3_step(statement.get())) == SQLITE_ROW) {
      rows_.add(statement.get());
      if (table.columns != gold.table.columns || table.rows() == gold.table.rows()) return false;
      for (int c = 0; c < columns; ++c) {
        const auto cell = gold.pool.find(value_at(statement.get(), c));
        if (!cell) return false;
        table.cells.push_back(*cell);
      }
    }
    if (rc != SQLITE_DONE) fail_with(db, rc);
    rows_.end();
    return results_equal(gold.table, table, order_matters_, gold.pool);
  }

  int socket_;
  SandboxLimits limits_;
  Clock::time_point deadline_;
  Databases databases_;
  std::vector<std::string> databases_in_job_;
  std::string gold_;
  bool order_matters_ = false;
  WireWriter unsent_;
  std::string gold_rows_;  // of the last comparison
  FirstRows rows_;
  std::map<std::string, std::unique_ptr<GoldResult>> golds_;
};

}  // namespace

void run_sql_worker(int socket, const SandboxLimits& limits) {
  confine_process(socket, limits);
  sqlite3_hard_heap_limit64(static_cast<sqlite3_int64>(limits.memory_bytes / 2));
  Worker worker(socket, limits);
  try {
    while (const auto message = receive_message(socket)) worker.serve(*message);
  } catch (const std::exception&) {
    ::_exit(1);  // the parent sees the closed socket
  }
  ::_exit(0);
}

}  // namespace qlora
