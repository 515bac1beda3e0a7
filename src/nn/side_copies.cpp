#include "qlora/nn/side_copies.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace qlora {

SideCopies::SideCopies(at::Device device) : device_(device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl streams(device.type());
  side_.emplace(Side{streams.getStreamFromGlobalPool(device), c10::Event(device.type()), c10::Event(device.type())});
}

void SideCopies::start(const at::Tensor& from, const at::Tensor& to) {
  if (!side_) {
    to.copy_(from);
    return;
  }
  side_->ready.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  side_->ready.block(side_->stream);
  const c10::StreamGuard guard(side_->stream);
  to.copy_(from, /*non_blocking=*/true);
  side_->done.record(side_->stream);
}

void SideCopies::finish() {
  if (side_) side_->done.block(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

}  // namespace qlora
