// The sandbox: right verdicts, no harm by hostile SQL, an end to endless SQL.
#include "qlora/eval/score/sql_sandbox.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/eval/score/sql_worker.h"

#include "eval/sample_database.h"

namespace qlora {
namespace {

using Outcome = ExecutionOutcome;

class SqlSandboxTest : public ::testing::Test {
 protected:
  static constexpr double kSeconds = 0.4;

  ExecutionVerdict judge(const std::string& gold, const std::string& predicted) {
    return sandbox_.run({{{files_.path()}, gold, {predicted}}}).at(0).at(0);
  }
  // A verdict against a gold of one row.
  ExecutionVerdict attempt(const std::string& sql) { return judge("SELECT 1", sql); }

  SampleDatabase files_;
  SqlSandbox sandbox_{SandboxLimits{kSeconds, size_t{256} << 20, 2}};
};

TEST_F(SqlSandboxTest, ComparesResults) {
  EXPECT_TRUE(
      judge("SELECT name FROM singer WHERE country = 'France'", "SELECT name FROM singer WHERE age < 35").equal());
  EXPECT_TRUE(judge("SELECT name , age FROM singer", "SELECT age , name FROM singer ORDER BY 1").equal());
  EXPECT_FALSE(judge("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC").equal());
  EXPECT_TRUE(judge("SELECT DISTINCT country FROM singer", "SELECT country FROM singer").equal());
  EXPECT_TRUE(judge("SELECT count(*) FROM singer WHERE age > = 30", "SELECT 3;  ").equal());
  EXPECT_TRUE(judge("SELECT 2014", "SELECT 2014.0").equal());
  EXPECT_TRUE(judge("SELECT name FROM singer WHERE singer_id = 4", "SELECT 'Zo'").equal()) << "bad UTF-8 is dropped";
  EXPECT_EQ(judge("SELECT 1", "SELECT 2").outcome, Outcome::kDifferent);
  EXPECT_EQ(judge("SELECT 1", "SELECT 1, 1").outcome, Outcome::kDifferent);
  EXPECT_TRUE(judge("SELECT name FROM singer WHERE age > 99", "SELECT age , name FROM singer WHERE age > 98").equal());
}

TEST_F(SqlSandboxTest, SaysWhyAPredictionScoresNothing) {
  EXPECT_EQ(attempt("").outcome, Outcome::kEmpty);
  EXPECT_EQ(attempt(" \n ").outcome, Outcome::kEmpty);
  EXPECT_EQ(attempt("-- nothing").outcome, Outcome::kEmpty);
  const auto unknown = attempt("SELECT nme FROM singer");
  EXPECT_EQ(unknown.outcome, Outcome::kError);
  EXPECT_NE(unknown.message.find("nme"), std::string::npos);
  EXPECT_EQ(attempt(std::string("SELECT 1\0", 9)).outcome, Outcome::kError);
  EXPECT_EQ(judge("SELECT nme FROM singer", "SELECT 1").outcome, Outcome::kGoldFailed);
  EXPECT_EQ(sandbox_.run({{{files_.path() + "x"}, "SELECT 1", {"SELECT 1"}}})[0][0].outcome, Outcome::kGoldFailed);
  EXPECT_THROW(sandbox_.run({{{}, "SELECT 1", {"SELECT 1"}}}), RuntimeFailure);
}

TEST_F(SqlSandboxTest, SyntaxIsJudgedWithoutRunning) {
  EXPECT_TRUE(attempt("SELECT name FROM singer;").syntax_valid);
  EXPECT_TRUE(attempt("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c").syntax_valid);
  for (const char* sql : {"", "SELECT", "SELECT nme FROM singer", "SELECT 1; SELECT 2", "DELETE FROM singer", "-- x",
                          "SELECT name FROM singer WHERE age > = 3", "Here is: SELECT 1"}) {
    EXPECT_FALSE(attempt(sql).syntax_valid) << sql;
  }
}

TEST_F(SqlSandboxTest, SeveralDatabasesMustAllAgree) {
  SampleDatabase other;
  other.run("DELETE FROM singer WHERE singer_id = 1");
  const ExecutionJob job{{files_.path(), other.path()},
                         "SELECT count(*) FROM singer",
                         {"SELECT 4", "SELECT count(name) FROM singer", "SELECT 3"}};
  const auto verdicts = sandbox_.run({job}).at(0);
  EXPECT_EQ(verdicts[0].outcome, Outcome::kDifferent);
  EXPECT_EQ(verdicts[1].outcome, Outcome::kEqual);
  EXPECT_EQ(verdicts[2].outcome, Outcome::kDifferent);
}

TEST_F(SqlSandboxTest, VerdictsComeInTheOrderOfTheJobs) {
  std::vector<ExecutionJob> jobs;
  jobs.reserve(200);
  for (int i = 0; i < 200; ++i) {
    jobs.push_back({{files_.path()}, "SELECT " + std::to_string(i), {"SELECT " + std::to_string(i - i % 3), "x"}});
  }
  size_t heard = 0;
  const auto verdicts = sandbox_.run(jobs, [&](size_t done) { heard = done; });
  EXPECT_EQ(heard, 200u);
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(verdicts[i][0].equal(), i % 3 == 0) << i;
    EXPECT_EQ(verdicts[i][1].outcome, Outcome::kError);
  }
}

std::vector<std::string> hostile_statements(const std::string& folder) {
  const std::string out = folder + "/stolen";
  std::vector<std::string> list = {"DROP TABLE singer",
                                   "DROP TABLE IF EXISTS concert",
                                   "DELETE FROM singer",
                                   "DELETE FROM singer RETURNING *",
                                   "UPDATE singer SET age = 0",
                                   "INSERT INTO singer VALUES (9, 'x', 'y', 1)",
                                   "REPLACE INTO singer(singer_id) VALUES (1)",
                                   "CREATE TABLE x(a)",
                                   "CREATE TEMP TABLE x(a)",
                                   "CREATE TABLE x AS SELECT * FROM singer",
                                   "CREATE VIEW v AS SELECT 1",
                                   "CREATE TEMP VIEW v AS SELECT 1",
                                   "CREATE INDEX i ON singer(age)",
                                   "CREATE TRIGGER t AFTER INSERT ON singer BEGIN DELETE FROM concert; END",
                                   "ALTER TABLE singer RENAME TO s",
                                   "ALTER TABLE singer ADD COLUMN z",
                                   "ALTER TABLE singer DROP COLUMN age",
                                   "CREATE VIRTUAL TABLE f USING fts5(a)",
                                   "CREATE VIRTUAL TABLE r USING rtree(a, b, c)",
                                   "CREATE VIRTUAL TABLE d USING dbstat",
                                   "ATTACH '" + out + "' AS o",
                                   "ATTACH ':memory:' AS o",
                                   "ATTACH DATABASE 'file:" + out + "?mode=rwc' AS o",
                                   "DETACH main",
                                   "VACUUM",
                                   "VACUUM INTO '" + out + "'",
                                   "REINDEX",
                                   "ANALYZE",
                                   "BEGIN",
                                   "BEGIN IMMEDIATE",
                                   "BEGIN EXCLUSIVE",
                                   "COMMIT",
                                   "ROLLBACK",
                                   "SAVEPOINT s",
                                   "PRAGMA journal_mode = WAL",
                                   "PRAGMA writable_schema = 1",
                                   "PRAGMA user_version = 7",
                                   "PRAGMA application_id = 7",
                                   "PRAGMA query_only = 0",
                                   "PRAGMA temp_store_directory = '" + folder + "'",
                                   "PRAGMA wal_checkpoint",
                                   "PRAGMA incremental_vacuum",
                                   "PRAGMA trusted_schema = 1",
                                   "PRAGMA database_list",
                                   "PRAGMA hard_heap_limit = 0",
                                   "PRAGMA temp_store = FILE",
                                   "PRAGMA cache_size = -1000000000",
                                   "PRAGMA mmap_size = 1000000000000",
                                   "SELECT load_extension('" + out + "')",
                                   "SELECT load_extension('libc.so.6', 'system')",
                                   "SELECT writefile('" + out + "', 'x')",
                                   "SELECT readfile('/etc/passwd')",
                                   "SELECT edit('x', 'touch " + out + "')",
                                   "SELECT fts3_tokenizer('simple')",
                                   "SELECT fts3_tokenizer('simple', x'4141414141414141')",
                                   "SELECT * FROM pragma_journal_mode('WAL')",
                                   "SELECT * FROM pragma_database_list",
                                   "SELECT * FROM pragma_user_version",
                                   "SELECT * FROM fsdir('/etc')",
                                   "SELECT * FROM sqlite_dbpage",
                                   "UPDATE sqlite_master SET sql = 'x'",
                                   "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 0, 'x')",
                                   "DELETE FROM sqlite_master",
                                   "DELETE FROM sqlite_schema",
                                   "EXPLAIN DELETE FROM singer",
                                   "WITH d AS (SELECT 1) DELETE FROM singer",
                                   "WITH d AS (SELECT 1) INSERT INTO singer(name) SELECT * FROM d",
                                   "WITH d AS (SELECT 1) UPDATE singer SET age = 1",
                                   ".shell touch " + out,
                                   ".output " + out,
                                   ".import x y",
                                   "COPY singer TO '" + out + "'",
                                   "SELECT * INTO OUTFILE '" + out + "' FROM singer",
                                   "GRANT ALL ON singer TO x",
                                   "TRUNCATE TABLE singer",
                                   "CALL system('touch " + out + "')",
                                   "!touch " + out,
                                   "\\! touch " + out};
  const size_t singles = list.size();
  for (size_t i = 0; i < singles; ++i) list.push_back("SELECT 1; " + list[i]);
  return list;
}

TEST_F(SqlSandboxTest, HostileStatementsChangeNothing) {
  const std::string before = files_.bytes();
  const size_t files = files_.count_files();
  const auto list = hostile_statements(files_.folder().string());
  ASSERT_GE(list.size(), 150u);
  const auto verdicts = sandbox_.run({{{files_.path()}, "SELECT 77", list}}).at(0);
  for (size_t i = 0; i < list.size(); ++i) {
    EXPECT_FALSE(verdicts[i].equal()) << list[i];
    EXPECT_FALSE(verdicts[i].syntax_valid) << list[i];
  }
  EXPECT_EQ(files_.bytes(), before);
  EXPECT_EQ(files_.count_files(), files);
  EXPECT_TRUE(judge("SELECT count(*) FROM singer", "SELECT 4").equal()) << "the workers still work";
}

struct Attempt {
  const char* name;
  std::function<bool()> succeeds;
};

// What a worker could do if SQLite itself were broken open. Run in a child alone.
std::vector<Attempt> attempts_on(const std::string& file) {
  const std::string other = file + "-stolen";
  const auto child = [](pid_t pid) {
    if (pid == 0) ::_exit(0);
    return pid > 0;
  };
  return {{"an internet socket", [] { return ::socket(AF_INET, SOCK_STREAM, 0) >= 0; }},
          {"an IPv6 socket", [] { return ::socket(AF_INET6, SOCK_DGRAM, 0) >= 0; }},
          {"a local socket", [] { return ::socket(AF_UNIX, SOCK_STREAM, 0) >= 0; }},
          {"opening to write", [=] { return ::open(file.c_str(), O_WRONLY) >= 0; }},
          {"opening to read and write", [=] { return ::open(file.c_str(), O_RDWR) >= 0; }},
          {"cutting off", [=] { return ::truncate(file.c_str(), 0) == 0; }},
          {"opening to cut off", [=] { return ::open(file.c_str(), O_RDONLY | O_TRUNC) >= 0; }},
          {"a new file", [=] { return ::open(other.c_str(), O_CREAT | O_WRONLY, 0600) >= 0; }},
          {"a new folder", [=] { return ::mkdir(other.c_str(), 0700) == 0; }},
          {"a link", [=] { return ::link(file.c_str(), other.c_str()) == 0; }},
          {"a symbolic link", [=] { return ::symlink(file.c_str(), other.c_str()) == 0; }},
          {"a new name", [=] { return ::rename(file.c_str(), other.c_str()) == 0; }},
          {"removing", [=] { return ::unlink(file.c_str()) == 0; }},
          {"new rights", [=] { return ::chmod(file.c_str(), 0777) == 0; }},
          {"a process", [=] { return child(::fork()); }},
          {"a signal", [] { return ::kill(::getppid(), 0) == 0; }},
          {"a program", [] { return ::execl("/bin/false", "false", nullptr) == 0; }}};  // it ends with 1: "it died"
}

// The names of what succeeded, in a process of its own; "no seccomp" where the kernel has none.
std::string what_succeeds(const std::string& file) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t pid = ::fork();
  if (pid == 0) {
    confine_process(ends[1], {});
    std::string names = ::prctl(PR_GET_SECCOMP) != 2 ? "no seccomp" : "";
    for (const Attempt& attempt : attempts_on(file)) {
      if (attempt.succeeds()) names += std::string(attempt.name) + "; ";
    }
    ::_exit(::write(ends[1], names.data(), names.size()) < 0 ? 1 : 0);
  }
  ::close(ends[1]);
  std::string names(4096, '\0');
  names.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(ends[0], names.data(), names.size()))));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? names : names + "it died";
}

TEST_F(SqlSandboxTest, AWorkerCannotReachNetworkFilesOrProcesses) {
  const std::string before = files_.bytes();
  const size_t files = files_.count_files();
  const std::string succeeded = what_succeeds(files_.path());
  if (succeeded.starts_with("no seccomp")) GTEST_SKIP() << "this kernel has no seccomp: " << succeeded;
  EXPECT_EQ(succeeded, "");
  EXPECT_EQ(files_.bytes(), before);
  EXPECT_EQ(files_.count_files(), files);
}

std::vector<std::string> bombs() {
  const std::string forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) ";
  const std::string many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000000) ";
  const std::string cross =
      " FROM singer a, singer b, singer c, singer d, singer e, singer f, singer g, singer h, singer i, "
      "singer j, singer k, singer l, singer m, singer n, singer o, singer p, singer q, singer r";
  const std::string nested = std::string(5000, '(') + "1" + std::string(5000, ')');
  std::string selects;
  for (int i = 0; i < 2000; ++i) selects += "SELECT * FROM (";
  selects += "SELECT 1" + std::string(2000, ')');
  std::string unions = "SELECT 1";
  for (int i = 0; i < 20000; ++i) unions += " UNION ALL SELECT 1";
  return {forever + "SELECT count(*) FROM c",
          forever + "SELECT x FROM c",
          forever + "SELECT max(x) FROM c",
          forever + "SELECT x FROM c ORDER BY x DESC",
          forever + "SELECT DISTINCT x FROM c WHERE x < 0",
          forever + "SELECT group_concat(x) FROM c",
          forever + "SELECT json_group_array(x) FROM c",
          forever + "SELECT group_concat(hex(randomblob(1000))) FROM c",
          many + "SELECT count(*) FROM c a, c b",
          many + "SELECT x, count(*) FROM c GROUP BY x",
          many + "SELECT x FROM c ORDER BY random()",
          many + "SELECT sum(x) OVER (ORDER BY x) FROM c",
          "SELECT count(*)" + cross,
          "SELECT *" + cross,
          "SELECT a.name" + cross + " ORDER BY a.age + b.age",
          "SELECT DISTINCT a.name || b.name || c.name" + cross,
          "SELECT count(*)" + cross + " GROUP BY a.name, b.name, c.name, d.name, e.name",
          "SELECT printf('%.900000000d', 1)",
          "SELECT length(printf('%.900000000d', 1))",
          "SELECT printf('%900000000s', 'x')",
          "SELECT length(zeroblob(900000000))",
          "SELECT zeroblob(2000000000)",
          "SELECT length(randomblob(900000000))",
          "SELECT hex(zeroblob(500000000))",
          "SELECT replace(hex(zeroblob(8000000)), '0', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa')",
          "SELECT quote(zeroblob(16000000))",
          "SELECT " + nested,
          selects,
          unions,
          "SELECT replace(printf('%.8000000c', 'a'), 'a', 'bb') LIKE '%b%b%b%b%b%b%b%b%b%b%c'",
          "SELECT hex(randomblob(7000000)) LIKE '%a%b%c%d%e%f%0%1%2%3%4%5%6%7%8%9%a%b%c%x%'",
          "SELECT printf('%.7000000c', 'a') GLOB '*a*a*a*a*a*a*a*a*b'",
          "SELECT instr(zeroblob(7000000), zeroblob(3500000) || x'01')",
          "SELECT abs(-9223372036854775807 - 1)",
          "SELECT count(*) FROM json_each(printf('[%.5000000c', '['))",
          "SELECT json_valid(printf('%.9000000c', '['))",
          "SELECT (SELECT count(*)" + cross + " WHERE z.age >= a.age) FROM singer z",
          "VALUES " +
              [] {
                std::string v = "(1)";
                for (int i = 0; i < 90000; ++i) v += ",(1)";
                return v;
              }(),
          "SELECT " + std::string(900000, '-') + "1",
          "SELECT '" + std::string(2000000, 'x') + "'",
          std::string(3000000, '(')};
}

#if defined(__SANITIZE_ADDRESS__)
constexpr long kChildMemoryKib = 1024 << 10;  // with the sanitizer's shadow, and the freed memory that it keeps
#else
constexpr long kChildMemoryKib = 256 << 10;
#endif

TEST(SqlSandbox, BombsEndInTimeAndInBounds) {
  constexpr double kLimit = 0.15;
  const SampleDatabase files;
  const auto list = bombs();
  ASSERT_GE(list.size(), 40u);
  {
    SqlSandbox sandbox({kLimit, size_t{256} << 20, 1});
    for (const auto& bomb : list) {
      const auto start = std::chrono::steady_clock::now();
      const auto verdict = sandbox.run({{{files.path()}, "SELECT 7", {bomb}}}).at(0).at(0);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      EXPECT_FALSE(verdict.equal()) << bomb.substr(0, 80);
      EXPECT_LT(took.count(), kLimit + 0.5) << bomb.substr(0, 80);
    }
    EXPECT_TRUE(sandbox.run({{{files.path()}, "SELECT 7", {"SELECT 7"}}}).at(0).at(0).equal());
  }
  rusage children{};
  getrusage(RUSAGE_CHILDREN, &children);  // ru_maxrss: the largest child that was waited for, in KiB
  EXPECT_LT(children.ru_maxrss, kChildMemoryKib);
}

TEST_F(SqlSandboxTest, AWorkerThatIsGoneIsReplaced) {
  // A gold that never ends is killed with its predictions; jobs around it are scored.
  const std::string endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT count(*) FROM c";
  const auto verdicts = sandbox_.run({{{files_.path()}, "SELECT 1", {"SELECT 1", endless, "SELECT 1"}},
                                      {{files_.path()}, endless, {"SELECT 1", "SELECT 2"}},
                                      {{files_.path()}, "SELECT 2", {"SELECT 2"}}});
  EXPECT_EQ(verdicts[0][0].outcome, Outcome::kEqual);
  EXPECT_EQ(verdicts[0][1].outcome, Outcome::kTimeout);
  EXPECT_TRUE(verdicts[0][1].syntax_valid);
  EXPECT_EQ(verdicts[0][2].outcome, Outcome::kEqual);
  EXPECT_EQ(verdicts[1][0].outcome, Outcome::kGoldFailed);
  EXPECT_EQ(verdicts[1][1].outcome, Outcome::kGoldFailed);
  EXPECT_EQ(verdicts[2][0].outcome, Outcome::kEqual);
}

}  // namespace
}  // namespace qlora
