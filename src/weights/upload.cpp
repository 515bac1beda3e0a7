#include "qlora/weights/upload.h"

#include <algorithm>
#include <cstring>

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "qlora/core/parallel.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora {
namespace {

void copy_on_all_cores(std::byte* to, const std::byte* from, std::int64_t size) {
  constexpr std::int64_t kGrain = std::int64_t{1} << 20;
  parallel_for(size, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  });
}

}  // namespace

at::Tensor Uploader::operator()(const HostTensor& tensor, const std::string& name) {
  if (device_.is_cpu()) return to_tensor(tensor, name);
  const at::Tensor values =
      at::empty(tensor.shape, at::TensorOptions().device(device_).dtype(weight_type(tensor, name)));
  if (values.numel() == 0) return values;
  const at::Tensor bytes = values.view(-1).view(at::kByte);
  for (std::int64_t begin = 0; begin < bytes.numel(); begin += kPiece) {
    Buffer& buffer = buffers_[next_++ % buffers_.size()];
    if (!buffer.bytes.defined()) {
      buffer.bytes = at::empty({kPiece}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
      buffer.sent.emplace(device_.type());
    } else {
      buffer.sent->synchronize();
    }
    const std::int64_t size = std::min(kPiece, bytes.numel() - begin);
    copy_on_all_cores(reinterpret_cast<std::byte*>(buffer.bytes.mutable_data_ptr<std::uint8_t>()),
                      tensor.bytes.data() + begin, size);
    bytes.narrow(0, begin, size).copy_(buffer.bytes.narrow(0, 0, size), /*non_blocking=*/true);
    buffer.sent->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
  return values;
}

}  // namespace qlora
