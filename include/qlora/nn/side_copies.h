// Copies between a device and host memory beside what the device computes.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

namespace qlora {

// One copy at a time: each start() is followed by its finish(). The host waits for neither, and both can be captured in
// a CUDA graph. On the CPU start() copies at once.
class SideCopies {
 public:
  explicit SideCopies(at::Device device);

  // Begins to.copy_(from) on a stream of its own, behind all that torch's current stream was given so far. Same type
  // and shape, contiguous; what lies on the host is pinned.
  void start(const at::Tensor& from, const at::Tensor& to);
  // What the current stream is given from now on comes behind the copy.
  void finish();

 private:
  struct Side {
    c10::Stream stream;
    c10::Event ready, done;
  };
  at::Device device_;
  std::optional<Side> side_;  // of a GPU
};

}  // namespace qlora
