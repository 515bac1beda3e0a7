// The text of a progress line, and when to draw it.
#include "qlora/core/progress.h"

#include <utility>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/log.h"

namespace qlora {
namespace {

std::string rate_text(double per_second) {
  if (per_second >= 1e6) return fmt::format("{:.1f}M/s", per_second / 1e6);
  if (per_second >= 1e3) return fmt::format("{:.1f}k/s", per_second / 1e3);
  return per_second >= 10 ? fmt::format("{:.0f}/s", per_second) : fmt::format("{:.2f}/s", per_second);
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string progress_text(const std::string& what, int64_t done, int64_t total, double seconds) {
  std::string text = total > 0 ? fmt::format("{}  {}/{}  {}%", what, done, total, done * 100 / total)
                               : fmt::format("{}  {}", what, done);
  if (done <= 0 || seconds <= 0) return text;
  const double rate = static_cast<double>(done) / seconds;
  text += "  " + rate_text(rate);
  if (total > done) text += "  " + clock_text(static_cast<double>(total - done) / rate) + " left";
  return text;
}

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)), total_(total), shown_(progress_is_shown()), start_(Clock::now()), last_(start_) {}

Progress::~Progress() {
  if (shown_) set_bottom_line("");
}

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  if (!shown_) return;
  const Clock::time_point now = Clock::now();
  if (now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  set_bottom_line(progress_text(what_, done, total_, seconds) + (note.empty() ? "" : "  " + note));
}

}  // namespace qlora
