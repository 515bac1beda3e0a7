// The child's side of the sandbox, and the messages between it and its parent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/eval/score/sql_sandbox.h"

namespace qlora {

// What a worker says while it works, one or more in a message: that a query starts (1: the gold), so that the parent's
// clock starts anew; that the prediction it is at compiles; its verdict (outcome, message, gold_result, result); that
// the job is done.
enum class WorkerEvent : uint8_t { kQueryStarts, kSyntaxValid, kVerdict, kJobDone };

// Packs numbers and strings into bytes.
class WireWriter {
 public:
  WireWriter& number(uint64_t value);
  WireWriter& text(std::string_view value);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Unpacks them; throws std::out_of_range at the end.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}
  uint64_t number();
  std::string text();
  bool at_end() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

// One message over a stream socket. send: false where the other side is gone. receive: nullopt at its end.
bool send_message(int socket, std::string_view bytes);
std::optional<std::string> receive_message(int socket);

std::string pack_job(const ExecutionJob& job, size_t first_prediction);

// Shuts this process in and serves jobs from `socket` until it is closed. Never returns.
[[noreturn]] void run_sql_worker(int socket, const SandboxLimits& limits);

// Gives up all that a worker does not need. Irrevocable: for the child alone.
void confine_process(int kept_descriptor, const SandboxLimits& limits);

}  // namespace qlora
