// Messages between the sandbox and its workers: a length, then the bytes.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "qlora/eval/score/sql_worker.h"

namespace qlora {
namespace {

bool receive_all(int socket, char* to, size_t size) {
  while (size > 0) {
    const ssize_t got = ::recv(socket, to, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

WireWriter& WireWriter::number(uint64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return *this;
}

WireWriter& WireWriter::text(std::string_view value) {
  number(value.size());
  bytes_ += value;
  return *this;
}

uint64_t WireReader::number() {
  uint64_t value = 0;
  if (bytes_.size() < sizeof(value)) throw std::out_of_range("message too short");
  std::memcpy(&value, bytes_.data(), sizeof(value));
  bytes_.remove_prefix(sizeof(value));
  return value;
}

std::string WireReader::text() {
  const uint64_t size = number();
  if (bytes_.size() < size) throw std::out_of_range("message too short");
  std::string value(bytes_.substr(0, size));
  bytes_.remove_prefix(size);
  return value;
}

bool send_message(int socket, std::string_view bytes) {
  std::string framed = WireWriter().text(bytes).bytes();
  const char* from = framed.data();
  size_t left = framed.size();
  while (left > 0) {
    const ssize_t sent = ::send(socket, from, left, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    from += sent;
    left -= static_cast<size_t>(sent);
  }
  return true;
}

std::optional<std::string> receive_message(int socket) {
  uint64_t size = 0;
  if (!receive_all(socket, reinterpret_cast<char*>(&size), sizeof(size)) || size > (uint64_t{1} << 30)) {
    return std::nullopt;
  }
  std::string bytes(size, '\0');
  if (!receive_all(socket, bytes.data(), size)) return std::nullopt;
  return bytes;
}

std::string pack_job(const ExecutionJob& job, size_t first_prediction) {
  WireWriter out;
  out.number(job.databases.size());
  for (const auto& database : job.databases) out.text(database);
  out.text(job.gold).number(job.plug_values ? 1 : 0).number(job.predictions.size() - first_prediction);
  for (size_t i = first_prediction; i < job.predictions.size(); ++i) out.text(job.predictions[i]);
  return out.bytes();
}

}  // namespace qlora
