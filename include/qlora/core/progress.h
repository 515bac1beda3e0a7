// One line on a terminal that says how far a long loop is; nothing anywhere else.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace qlora {

// What a progress line shows: "rows  3500/7000  50%  12.5k/s  0:04 left".
// `seconds` since the start; a total of 0 is unknown: no share, no time left.
std::string progress_text(const std::string& what, int64_t done, int64_t total, double seconds);

// 59 -> "0:59", 3600 -> "1:00:00"
std::string clock_text(double seconds);

class Progress {
 public:
  // `what` names the things counted ("rows", "steps").
  Progress(std::string what, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Draws ten times a second at most. Not safe from several threads.
  void update(int64_t done, const std::string& note = "");
  void step(int64_t by = 1) { update(done_ + by); }

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  int64_t total_;
  int64_t done_ = 0;
  bool shown_;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace qlora
