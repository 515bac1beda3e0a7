// Tensors of a mapped file on their way to a device.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include "qlora/core/host_tensor.h"

namespace qlora {

// To a GPU through two pinned buffers: while one travels, all cores fill the other from the file.
class Uploader {
 public:
  explicit Uploader(at::Device device) : device_(device) {}

  // A copy on the device, in the file's type, made on torch's current stream; the bytes of `tensor` may be unaligned
  // and are read before this returns. Throws DataError naming the tensor for a type that is no float.
  at::Tensor operator()(const HostTensor& tensor, const std::string& name);

 private:
  struct Buffer {
    at::Tensor bytes;  // uint8 [kPiece], pinned
    std::optional<c10::Event> sent;
  };
  static constexpr std::int64_t kPiece = std::int64_t{32} << 20;

  at::Device device_;
  std::array<Buffer, 2> buffers_;
  std::size_t next_ = 0;
};

}  // namespace qlora
