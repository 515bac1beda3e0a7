// Small tensors that travel to a device together.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace qlora {

// One buffer for all tensors of a batch: filled on the host, then moved in one copy.
class Packer {
 public:
  explicit Packer(at::Device device) : device_(device) {}

  struct Part {
    std::int64_t offset, count;
    at::ScalarType type;
  };

  template <class T>
  Part reserve(std::int64_t count) {
    constexpr std::int64_t kAlignment = 16;
    const Part part{bytes_, count, c10::CppTypeToScalarType<T>::value};
    bytes_ += (count * static_cast<std::int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }

  // After the last reserve(): pinned memory where it leads to a GPU.
  void allocate() {
    host_ = at::empty({bytes_}, at::TensorOptions().dtype(at::kByte).pinned_memory(device_.is_cuda()));
  }

  // Fills a part: the values, then `rest`.
  template <class T, class Values>
  void fill(const Part& part, const Values& values, T rest) {
    T* to = reinterpret_cast<T*>(host_.mutable_data_ptr<std::uint8_t>() + part.offset);
    std::fill(std::copy(values.begin(), values.end(), to), to + part.count, rest);
  }

  void send() { sent_ = device_.is_cpu() ? host_ : host_.to(device_, /*non_blocking=*/true); }

  at::Tensor view(const Part& part) const {
    const std::int64_t size = part.count * static_cast<std::int64_t>(c10::elementSize(part.type));
    return sent_.narrow(0, part.offset, size).view(part.type);
  }
  const at::Tensor& storage() const { return sent_; }

 private:
  at::Device device_;
  std::int64_t bytes_ = 0;
  at::Tensor host_, sent_;
};

}  // namespace qlora
