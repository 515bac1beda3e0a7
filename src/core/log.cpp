// spdlog with a sink that keeps one progress line below the messages.
#include "qlora/core/log.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

namespace qlora {
namespace {

bool takes_colour(int descriptor) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  if (no_color != nullptr && *no_color != '\0') return false;
  if (terminal == nullptr || std::strcmp(terminal, "dumb") == 0) return false;
  return isatty(descriptor) == 1;
}

class StderrSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set_bottom(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (!bottom_.empty() || !text.empty()) std::fprintf(stderr, "\r\033[K%s", text.c_str());
    bottom_ = text;
    std::fflush(stderr);
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string text(message.payload.data(), message.payload.size());
    const char* erase = bottom_.empty() ? "" : "\r\033[K";
    std::fprintf(stderr, "%s%s%s\n%s", erase, prefix(message.level), text.c_str(), bottom_.c_str());
    std::fflush(stderr);
  }
  void flush_() override { std::fflush(stderr); }

 private:
  static const char* prefix(spdlog::level::level_enum level) {
    const bool colour = stderr_takes_colour();
    if (level == spdlog::level::warn) return colour ? "\033[33mwarning:\033[0m " : "warning: ";
    if (level == spdlog::level::err) return colour ? "\033[31merror:\033[0m " : "error: ";
    return level == spdlog::level::debug ? "debug: " : "";
  }

  std::string bottom_;
};

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

struct Log {
  std::shared_ptr<StderrSink> sink = std::make_shared<StderrSink>();
  spdlog::logger logger{"qlora", sink};
};

Log& the_log() {
  static Log log;
  return log;
}

}  // namespace

void set_up_log(LogLevel level, bool quiet) {
  const spdlog::level::level_enum least = spdlog_level(level);
  the_log().logger.set_level(quiet ? std::max(least, spdlog::level::warn) : least);
}

void log_line(LogLevel level, const std::string& message) {
  the_log().logger.log(spdlog_level(level), spdlog::string_view_t(message));
}

bool stderr_takes_colour() {
  return takes_colour(STDERR_FILENO);
}
bool stdout_takes_colour() {
  return takes_colour(STDOUT_FILENO);
}

bool progress_is_shown() {
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::strcmp(terminal, "dumb") == 0;
  return !dumb && isatty(STDERR_FILENO) == 1 && the_log().logger.should_log(spdlog::level::info);
}

void set_bottom_line(const std::string& text) {
  the_log().sink->set_bottom(text);
}

}  // namespace qlora
